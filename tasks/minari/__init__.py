"""Minari's datasets: the format that D4RL's are kept in too, and Minari's own as tasks."""
