"""Settings against each other: scores, picks by a declared rule, what they cost."""
