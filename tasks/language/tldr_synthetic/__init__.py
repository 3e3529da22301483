"""Posts and summaries, made here."""
