"""The page that a figure is made for: its width in print, and what stands around the axes without being cut.

Every figure is drawn at the width at which it is printed, so that a point of type is one. Matplotlib's constrained
layout runs once, in `settle`; whatever is written afterwards is as it was laid out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.legend import Legend
from matplotlib.offsetbox import OffsetBox, PackerBase

from analysis.figures.fonts import complete
from analysis.figures.looks import Color
from analysis.figures.pyplot import plt
from analysis.records.inference import UNITS, unit

COLUMN, TEXT = 3.25, 5.5
"""Widths in inches: of a column, and of a text block (NeurIPS, ICML, ICLR)."""
WIDTHS = {"column": COLUMN, "text": TEXT}
SMALL, PLAIN, LARGE = 7.0, 7.5, 8.0
"""Points: ticks, legends and notes; names of axes; titles. Nothing is smaller."""
TALLEST = 9.0  # inches, of the text block of a page
LINE = 1.35 / 72  # inches of a line of text, a point of its size
NAME, CAPTION = "name", "caption"
"""What texts below panels are."""
HANDLE = 0.36  # inches of a legend's sample of a line, and the gaps beside it
SHARE = 2.2
"""By how much all else is higher than a legend, at least."""
BESIDE = {COLUMN: (5, 0.7), TEXT: (8, 1.2)}
"""Width -> how many labels, and of which length in inches, stand at the ends of lines instead of in a legend."""


@dataclass(frozen=True)
class Page:
    """What a drawing must know beside its numbers."""

    width: float = TEXT
    """Inches."""
    title: bool = True
    """Whether a title stands above; in a paper a caption says it."""
    units: Mapping[str, str] = field(default_factory=lambda: UNITS)
    """Suite -> what its score is (`inference.units_of`)."""
    axes: Mapping[str, str] = field(default_factory=dict)
    """Knob -> what stands on its axis (`inference.axes_of`)."""

    def score(self, suite: object) -> str:
        """What a suite's score is, on an axis."""
        return unit(str(suite), self.units)

    def abreast(self, text: int, column: int) -> int:
        """Panels in a row: one number for a text block, another for a column."""
        return text if self.width > (TEXT + COLUMN) / 2 else column


class Sheet(Figure):
    """A figure with room below its panels, where one thing stands below the other."""

    foot = 0.0
    """Inches of that room."""

    def grow(self, inches: float, below: bool = False) -> None:
        """Makes the figure higher; `below`: for more of the room below, what is there already moves up."""
        width, height = self.get_size_inches()
        self.set_size_inches(width, height := float(height + inches))
        if below:
            self.foot += inches
            for text in self.texts:
                if text.get_gid() in (NAME, CAPTION):
                    text.set_y(text.get_position()[1] + inches)
            for one in self.legends:
                x, y = one.get_bbox_to_anchor().transformed(self.dpi_scale_trans.inverted()).p0
                one.set_bbox_to_anchor((x, y + inches), self.dpi_scale_trans)
        share = self.foot / height
        engine = self.get_layout_engine()
        if engine is not None:
            engine.set(rect=(0, share, 1, 1 - share))  # type: ignore[call-arg]
        if self._supylabel is not None:  # type: ignore[attr-defined]
            self._supylabel.set_y((1 + share) / 2)  # type: ignore[attr-defined]

    def note(self, text: str, gid: str, **more: Any) -> None:
        """Puts text below all there is."""
        size = more.get("fontsize", SMALL)
        self.grow(LINE * size * (1 + text.count("\n")) + 0.03, below=True)
        self.text(y=0.03, s=text, gid=gid, va="bottom", transform=self.dpi_scale_trans, **more)


class Names(Legend):
    """A legend that is laid out when it is first drawn. Matplotlib's own is laid out anew for every format, and with
    many names that takes longer than drawing it."""

    _at: tuple[float, ...] = ()
    """Where it stands, in inches, when its parts got their places."""
    _places: Sequence[tuple[OffsetBox, float, float]] = ()
    """Its parts, and where these stand, in inches."""

    def draw(self, renderer: Any) -> None:
        dpi = self.get_figure(root=True).dpi  # type: ignore[union-attr]
        at = tuple(round(float(one) / dpi, 4) for one in self.get_bbox_to_anchor().extents)
        if at != self._at:
            super().draw(renderer)
            self._at = at
            places = ((part, part.get_offset()) for part in _parts(self._legend_box))  # type: ignore
            self._places = [(part, x / dpi, y / dpi) for part, (x, y) in places]
            return
        for part, x, y in self._places:
            part.set_offset((x * dpi, y * dpi))
            part.draw(renderer)
        self.stale = False


def _parts(box: OffsetBox) -> Iterator[OffsetBox]:
    """The texts and samples of lines in a legend."""
    if isinstance(box, PackerBase):
        for one in box.get_children():
            yield from _parts(one)  # type: ignore[arg-type]
    else:
        yield box


def panel(page: Page, height: float = 0.0) -> tuple[Sheet, Axes]:
    """A figure of one panel, `height` inches without title and legend; of a fitting one if 0."""
    size = (page.width, height or 0.9 + 0.3 * page.width)
    figure, axes = plt.subplots(figsize=size, layout="constrained", FigureClass=Sheet)
    return figure, axes  # type: ignore[return-value]


def panels(page: Page, count: int, abreast: int, height: float, **more: Any) -> tuple[Sheet, list[Axes]]:
    """(figure, `count` panels in rows of `abreast`), each `height` inches."""
    columns = min(count, abreast)
    rows = -(-count // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(page.width, rows * height + 0.3), squeeze=False, layout="constrained",
        FigureClass=Sheet, **more,
    )  # fmt: skip
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    for axes in grid.flat[max(count - columns, 0) : count]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    return figure, list(grid.flat[:count])


@lru_cache(4096)
def length(text: str, size: float = SMALL) -> float:
    """Inches of one line of text."""
    font = get_font(findfont(FontProperties(family="DejaVu Sans")))
    font.set_size(100, 72)  # at which hinting moves nothing
    font.set_text(text.replace(r"\$", "$"), 0.0)
    return float(font.get_width_height()[0]) / 64 / 72 * size / 100


def wrapped(text: str, inches: float, size: float = SMALL) -> str:
    """The text in lines of at most so many inches: broken at spaces, else behind hyphens, else anywhere."""
    return "\n".join(line for given in text.split("\n") for line in _lines(given.split(" "), " ", inches, size))


def _lines(words: Sequence[str], between: str, inches: float, size: float) -> list[str]:
    lines, line = list[str](), ""
    for word in words:
        if length(word, size) > inches and len(word) > 4:
            lines += [line] if line else []
            parts = re.findall(r"[^-]*-|[^-]+", word)
            if len(parts) == 1:
                fits = max((n for n in range(3, len(word)) if length(word[:n], size) <= inches), default=3)
                parts = [word[:fits], word[fits:]]
            *done, line = _lines(parts, "", inches, size)
            lines += done
            continue
        both = f"{line}{between}{word}" if line else word
        if length(both, size) <= inches:
            line = both
        else:
            lines += [line] if line else []
            line = word
    return [*lines, line]


def stacked(names: Sequence[str]) -> tuple[list[float], int]:
    """(where rows with such names stand, a line of text apart, the first one's first line at 0; lines in all)."""
    counts = [1 + name.count("\n") for name in names]
    return [sum(counts[:i]) + (count - 1) / 2 for i, count in enumerate(counts)], sum(counts)


def title(figure: Sheet, page: Page, text: str) -> None:
    """Puts a title above a figure, which grows by it."""
    if page.title:
        text = wrapped(text, page.width - 0.1, LARGE)
        figure.grow(LINE * LARGE * (1 + text.count("\n")))
        figure.suptitle(text, x=0.01, ha="left", fontsize=LARGE)


def legend(figure: Sheet, page: Page, handles: Sequence[Any], names: Sequence[str]) -> None:
    """A legend in rows below a figure, which grows by it."""
    if not names:
        return
    names = [wrapped(name, page.width - HANDLE - 0.2) for name in names]
    widest = max(length(line) for name in names for line in name.split("\n"))
    columns = int(max(1, min(len(names), (page.width - 0.1) // (widest + HANDLE + 0.12))))
    rows = -(-len(names) // columns)
    columns = -(-len(names) // rows)  # as even as can be
    most = sum(sorted((1 + name.count("\n") for name in names), reverse=True)[:rows])  # lines of the longest column
    height = LINE * SMALL * most + 0.04
    figure.grow(max(0.0, SHARE * height - figure.get_size_inches()[1]))
    figure.grow(height, below=True)
    figure.legends.append(Names(
        figure, handles, names, loc="lower center", bbox_to_anchor=(page.width / 2, 0.0),
        bbox_transform=figure.dpi_scale_trans, ncols=columns, columnspacing=1.0, handletextpad=0.5, labelspacing=0.25,
        borderpad=0.2, borderaxespad=0.2,
    ))  # fmt: skip


def named(figure: Sheet, page: Page, axes: Axes, ends: Mapping[str, Any]) -> None:
    """Names lines: at their right ends where they are few and short, else in a legend. `ends`: name -> its handle."""
    most, longest = BESIDE.get(page.width, (0, 0.0))
    lines = {name: one for name, one in ends.items() if hasattr(one, "get_ydata")}
    fits = len(lines) == len(ends) <= most and all(length(name) <= longest for name in ends)
    if not fits or len(ends) < 2:
        legend(figure, page, list(ends.values()), list(ends))
        return
    axes.margins(y=0.06)
    bottom, top = axes.get_ylim()
    height = (figure.get_size_inches()[1] - 0.5) / (LINE * SMALL)  # in lines of text
    at = {
        name: (float(np.ravel(one.get_ydata())[-1]) - bottom) / (top - bottom) * height for name, one in lines.items()
    }
    for name, place in spread(at, height).items():
        axes.annotate(
            name, (1.02, place / height), xycoords="axes fraction", color=ink(lines[name].get_color()), va="center",
            fontsize=SMALL, annotation_clip=False,
        )  # fmt: skip


def spread(at: Mapping[str, float], most: float, apart: float = 1.0) -> dict[str, float]:
    """Places (of centres of lines of text, from 0 to `most`) moved as little as may be until they are `apart`."""
    order = sorted(at, key=lambda name: at[name])
    places = [min(max(at[name], 0.0), most) for name in order]
    for _ in range(100):
        moved = False
        for i in range(len(places) - 1):
            lack = apart - (places[i + 1] - places[i])
            if lack > 1e-6:
                places[i], places[i + 1], moved = places[i] - lack / 2, places[i + 1] + lack / 2, True
        if places and places[0] < 0:
            places[0] = 0.0
        if places and places[-1] > most:
            places[-1] = most
        if not moved:
            break
    return dict(zip(order, places, strict=True))


def ink(color: Any) -> Color:
    """A colour as type: darkened until it can be read on white."""
    red, green, blue = to_rgb(color)
    while 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45:
        red, green, blue = 0.9 * red, 0.9 * green, 0.9 * blue
    return red, green, blue


def label(axes: Axes, page: Page, x: str = "", y: str = "", share: float = 1.0) -> None:
    """Names axes, in as many lines as they need. `share`: of the page's width that is the panel's."""
    if x:
        axes.set_xlabel(wrapped(x, share * (page.width - 0.55), PLAIN))
    if y:
        height = axes.get_figure(root=True).get_size_inches()[1]  # type: ignore[union-attr]
        axes.set_ylabel(wrapped(y, max(height - 0.6, 1.0), PLAIN))


def shared(figure: Sheet, page: Page, x: str = "", y: str = "") -> None:
    """Names axes that all panels share."""
    if x:
        figure.note(wrapped(x, page.width - 0.2, PLAIN), NAME, x=page.width / 2, ha="center", fontsize=PLAIN)
    if y:
        figure.supylabel(wrapped(y, max(figure.get_size_inches()[1] - figure.foot - 0.3, 1.0), PLAIN), fontsize=PLAIN)


def caption(figure: Sheet, text: str) -> None:
    """Small print at the bottom of a figure."""
    figure.note(text, CAPTION, x=0.05, ha="left", color="0.3", parse_math=False, linespacing=1.3)


def settle(figure: Figure) -> None:
    """Lays a figure out, once and for all."""
    complete(figure)
    engine = figure.get_layout_engine()
    if engine is not None:
        _unshare(figure)
        for axis, text in _names(figure):
            if not text:
                axis.set_label_coords(0.5, 0.5)
        engine.execute(figure)
        figure.set_layout_engine(None)  # where there is one, every format is drawn twice
        renderer = figure._get_renderer()  # type: ignore[attr-defined]
        for axes in figure.axes:
            locator = axes.get_axes_locator()
            axes.apply_aspect(locator(axes, renderer) if locator is not None else None)
        for axis, text in _names(figure):
            if text:
                _pin(renderer, axis)


def _names(figure: Figure) -> list[tuple[Axis, str]]:
    """Every axis and its name."""
    return [(axis, axis.get_label_text()) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]


def _pin(renderer: Any, axis: Axis) -> None:
    """Ties an axis's name to the place that it has now. It would else be sought anew, past all ticks, whenever a format
    is drawn."""
    axis._update_label_position(renderer)  # type: ignore[attr-defined]
    at = axis.label.get_transform().transform(axis.label.get_position())
    axis.set_label_coords(*axis.axes.transAxes.inverted().transform(at))


def _unshare(figure: Figure) -> None:
    """Ends the sharing of limits, which are known by now: whoever asks for those of one of n shared axes, and drawing
    does all the time, waits until all n have been asked whether they changed."""
    for axes in figure.axes:
        axes.get_xlim(), axes.get_ylim()  # as all of them have it
    for axes in figure.axes:
        for group in axes._shared_axes.values():  # type: ignore[attr-defined]
            group.remove(axes)
