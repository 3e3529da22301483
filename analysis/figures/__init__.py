"""Figures: of each a frame of the numbers it shows, and a drawing of it."""
