"""A figure as part of a page: a small PNG and the numbers it shows, as data URIs."""

from __future__ import annotations

import base64
import io
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from analysis.figures.page import settle
from analysis.figures.pyplot import plt
from analysis.output import csv_text

DPI = 130  # so that a figure stays sharp when it fills a page
COLORS = 128
"""Of a picture's palette: lines on white have few, and a palette is a quarter of the size of full colour."""


class Picture(NamedTuple):
    """A figure of a page, and the numbers it shows, as data URIs."""

    name: str
    image: str
    numbers: str
    width: int
    """In pixels, as it is to be laid out."""
    height: int


def picture(figure: Figure, frame: pd.DataFrame, name: str) -> Picture:
    """The figure, which is closed, under that name."""
    figure.set_dpi(DPI)
    settle(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    plt.close(figure)
    content, width, height = packed(buffer.getvalue())
    numbers = csv_text(frame).encode("utf-8", "backslashreplace")
    return Picture(name, uri("image/png", content), uri("text/csv", numbers), width, height)


def packed(png: bytes) -> tuple[bytes, int, int]:
    """(a PNG of the nearest COLORS colours, its width and height in pixels)."""
    with Image.open(io.BytesIO(png)) as full:
        flat = full.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    small = io.BytesIO()
    flat.save(small, "png", optimize=True)
    return small.getvalue(), *flat.size


def uri(kind: str, content: bytes) -> str:
    """A data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
