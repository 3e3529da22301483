"""Matplotlib's pyplot, for figures that are files and look the same whatever a user has set up. Import `plt` here."""

from __future__ import annotations

import matplotlib

matplotlib.use("agg")  # before pyplot, which loads what MPLBACKEND or a matplotlibrc names

import matplotlib.pyplot as plt

__all__ = ["plt", "reset"]


def reset() -> None:
    """Matplotlib's own defaults, without those of a user's matplotlibrc."""
    matplotlib.rcdefaults()
