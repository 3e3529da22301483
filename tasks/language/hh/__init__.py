"""Anthropic-HH."""
