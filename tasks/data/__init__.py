"""What every suite needs for its data: downloads, files, action ranges, recipes."""
