"""D4RL v2, and sets of its kind that were made here."""
