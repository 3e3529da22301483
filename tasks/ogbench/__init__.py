"""OGBench's single-task environments."""
