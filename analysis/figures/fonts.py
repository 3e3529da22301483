"""The font of all figures: DejaVu Sans, as Matplotlib ships it, cut down to the signs that names and axes need.

A PDF has a piece of its font within. Cutting that piece out of the whole of DejaVu Sans, whose tables for layout are
large, takes longer than drawing the figure; of the small font it takes next to nothing.
"""

from __future__ import annotations

import atexit
import tempfile
from functools import cache
from pathlib import Path

import matplotlib
from fontTools import subset
from fontTools.ttLib import TTFont
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

FAMILY = "Figures Sans"
"""DejaVu's licence asks for another name where it is changed."""
WHOLE = "DejaVu Sans"
"""Has the signs that the small one lacks."""
KEPT = [*range(0x20, 0x250), *range(0x370, 0x400), *range(0x2010, 0x2060), *range(0x2070, 0x20A0), 0x20AC,
        *range(0x2190, 0x2200), *range(0x2200, 0x2300), *range(0x25A0, 0x2600)]  # fmt: skip
"""Latin, Greek, punctuation, superscripts, arrows, signs of mathematics, shapes."""
_SIGNS = frozenset(KEPT)
_NAMES, _POSTSCRIPT = (1, 3, 4, 6, 16), 6  # records of a font's name table; that of PostScript has no blanks


@cache
def families() -> list[str]:
    """What stands in Matplotlib's `font.family`, the small font made and made known to it: once a process. A second
    family would be looked up for every text that is drawn; `complete` gives it to those that need it."""
    _add("DejaVuSans")
    return [FAMILY]


def complete(figure: Figure) -> None:
    """Has texts with signs that the small font lacks fall back on the whole one."""
    for text in figure.findobj(Text):
        if not (said := text.get_text()).isascii() and not _SIGNS.issuperset(map(ord, said)):
            text.set_fontfamily([FAMILY, WHOLE])


@cache
def bold() -> str:
    """Matplotlib's name of the bold weight, of which there is a small font from then on: few figures have any."""
    _add("DejaVuSans-Bold")
    return "bold"


def _add(name: str) -> None:
    folder = tempfile.TemporaryDirectory(prefix="figures-")
    atexit.register(folder.cleanup)
    path = Path(folder.name) / f"{name}.ttf"
    _cut(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf").save(path)
    font_manager.fontManager.addfont(path)


def _cut(path: Path) -> TTFont:
    """A font with the signs KEPT, under our name and without tables for layout."""
    font, options = TTFont(path), subset.Options(layout_features=[], notdef_outline=True, glyph_names=False)
    options.drop_tables += ["FFTM"]
    cut = subset.Subsetter(options)
    cut.populate(unicodes=KEPT)
    cut.subset(font)
    for record in font["name"].names:
        if record.nameID in _NAMES:
            record.string = FAMILY.replace(" ", "") if record.nameID == _POSTSCRIPT else FAMILY
    return font
