"""Tasks of writing: what suites of them share, and a folder for each suite."""
