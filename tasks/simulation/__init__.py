"""Simulators, many of them stepped together."""
