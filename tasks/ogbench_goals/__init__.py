"""OGBench's goal-conditioned environments."""
