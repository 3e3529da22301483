"""What TeX would make of a table, without TeX: whether its source is sound, and how wide it comes out.

Widths are those of the fonts themselves, which Matplotlib brings along: Computer Modern, whose smaller sizes are wider
than its ten points scaled (cmr9.tfm and so on), and Times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import _afm, ft2font

FONTS = Path(matplotlib.get_data_path()) / "fonts"
DESIGN = {10.0: 1.0, 9.0: 0.5139 / 0.5, 8.0: 0.53125 / 0.5, 7.0: 0.56944 / 0.5, 6.0: 0.61111 / 0.5}
"""Width of a digit of cmr at this size, over that of cmr10."""
BOLD = 0.575 / 0.5  # cmbx10 over cmr10
SPELLED = {
    r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<",
    r"\textgreater{}": ">", r"\textbar{}": "|", r"$\pm$": "+", r"$-$": "+", r"$\neq$": "=", "---": "@", "{[}": "[",
    "{]}": "]", "{*}": "*", r"$\beta$": "b", r"\'{e}": "e", "{}": "",
}  # fmt: skip
"""Markup -> the sign, or one as wide."""


@cache
def _fonts() -> tuple[ft2font.FT2Font, _afm.AFM, _afm.AFM]:
    modern = ft2font.FT2Font(str(FONTS / "ttf" / "cmr10.ttf"))
    modern.set_size(1000, 72)
    with (FONTS / "afm/ptmr8a.afm").open("rb") as plain, (FONTS / "afm/ptmb8a.afm").open("rb") as bold:
        return modern, _afm.AFM(plain), _afm.AFM(bold)


@cache
def sign(one: str, points: float, bold: bool, family: str) -> float:
    """Points that a sign takes."""
    modern, times, times_bold = _fonts()
    if family == "times":
        return float((times_bold if bold else times).get_width_char(ord(one))) / 1000 * points
    em = 0.778 if one in "+=<>" else 0.5 if one in "_\\{}|" else modern.load_char(ord(one)).linearHoriAdvance / 65536e3
    return float(em) * points * DESIGN[points] * (BOLD if bold else 1.0)


def text(source: str, points: float, family: str, bold: bool = False) -> float:
    """Points that the source of a cell takes."""
    if inner := re.fullmatch(r"\\begin\{tabular\}\[[tb]\]\{@\{\}[lr]@\{\}\}(.*)\\end\{tabular\}", source):
        return max(text(line, points, family, bold) for line in inner[1].split(r"\\"))
    if inner := re.fullmatch(r"\\textit\{(.*)\}", source):
        return text(inner[1], points, family, bold)
    total = 0.0
    while source:
        if match := re.match(r"\\textbf\{((?:[^{}]|\\[{}]|\{\})*)\}", source):
            total += text(match[1], points, family, True)
        elif match := re.match(r"\{\\scriptsize ?(.*?)\}(?=\)|\$\^|$)", source):
            total += text(match[1].removeprefix("{}"), 7.0, family, bold)
        elif match := re.match(r"\$\^\{(.*?)\}\$", source):
            total += len(re.findall(r"\\\w+|.", match[1])) * 0.778 * 6.0 * DESIGN[6.0]
        elif match := re.match(r"\\[&%#_${}]", source):
            total += sign(match[0][1], points, bold, family)
        elif spelled := next((one for one in SPELLED if source.startswith(one)), None):
            total += sum(sign(one, points, bold, family) for one in SPELLED[spelled])
            source = source[len(spelled) :]
            continue
        else:
            match = re.match(r"[^\\{}$&%#_^~]", source)
            assert match, f"what is {source!r}?"
            total += sign(match[0], points, bold, family)
        source = source[match.end() :]
    return total


def tabulars(source: str) -> Iterator[tuple[str, list[list[str]]]]:
    """(kind, its rows as cells) of every tabular and longtable."""
    for kind, body in re.findall(r"\\begin\{(tabular|longtable)\}\{@\{\}l.*?\}\n(.*?)\n\\end\{\1\}", source, re.DOTALL):
        rows = [line for line in body.splitlines() if re.search(r"\\\\\*?$", line) and r"\caption" not in line]
        yield kind, [re.split(r"(?<!\\)&", re.sub(r"\s*\\\\\*?$", "", line)) for line in rows]


def breadths(source: str, family: str) -> list[float]:
    """Points that each of a source's tables takes."""
    assert r"\small" in source or r"\fontsize{8}" in source
    points = 9.0 if r"\small" in source else 8.0
    gap = float(re.findall(r"\\tabcolsep\}\{([\d.]+)pt\}", source)[0])
    found = []
    for _, rows in tabulars(source):
        columns, across = [0.0] * max(map(len, rows)), 0.0
        for row in rows:
            if span := re.fullmatch(r"\\multicolumn\{\d+\}\{@\{\}l@\{\}\}\{(.*)\}", "&".join(row)):
                across = max(across, text(span[1], points, family))
                continue
            columns = [max(a, text(cell.strip(), points, family)) for a, cell in zip(columns, row, strict=True)]
        found.append(max(across, sum(columns) + 2 * gap * (len(columns) - 1)))
    return found


def sound(source: str) -> None:
    """That braces and environments close, rows have equally many cells, and nothing stands there that TeX acts on."""
    code = re.sub(r"(?m)(^|(?<=  ))%.*$", "", source)
    depth = 0
    for one in re.findall(r"\\.|[{}]", code):
        depth += {"{": 1, "}": -1}.get(one, 0)
        assert depth >= 0
    assert depth == 0
    open_ = []
    for way, name in re.findall(r"\\(begin|end)\{(\w+)\}", code):
        if way == "begin":
            open_.append(name)
        else:
            assert open_.pop() == name
    assert open_ == [] and code.count(r"\begingroup") == code.count(r"\endgroup")
    bare = re.sub(r"\\.", "", code)
    assert bare.count("$") % 2 == 0 and not set("%#~") & set(bare) and code.isascii()
    outside = "".join(re.sub(r"\\[$\\]", "", code).split("$")[::2])
    assert not re.search(r"(?<!\\)[_^]", outside), outside
    for kind, rows in tabulars(source):
        spec = re.findall(rf"\\begin\{{{kind}\}}\{{@\{{\}}(l*r*)@\{{\}}\}}\n", code)
        widths = {len(row) for row in rows if not row[0].startswith(r"\multicolumn")}
        spans = {int(n) for row in rows for n in re.findall(r"^\\multicolumn\{(\d+)\}", row[0])}
        assert len(widths) == 1 and spans <= widths and widths <= {len(one) for one in spec}, (widths, spans, spec)
    for line in code.splitlines():
        assert r"\\" in line or "&" not in re.sub(r"\\&", "", line)
