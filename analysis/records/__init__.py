"""What runs wrote, read into one frame of episodes."""
