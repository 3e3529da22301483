"""Tables for print: LaTeX (booktabs) that fits a text block of 5.5 inches, whatever stands in them.

Widths are counted, not hoped for: `width` is at least that of Computer Modern and of Times, the two that papers are set
in, so a table is set as large as it fits, and in parts of its columns where it does not fit at all.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

from core.text import printable

TEXT_WIDTH = 5.5 * 72.27  # points of TeX
LONG = 30  # lines from which a table may break over pages
MISSING = "\N{EM DASH}"
PREAMBLE = r"% needs \usepackage{booktabs}; on a page of two columns, table* instead of table"
LONG_PREAMBLE = r"% needs \usepackage{booktabs,longtable}, and a page of one column"
SMALL = 7.0  # points of \scriptsize, of what follows a number
MARK = 7.0  # points that a superscript takes at most
HEADING = 340.0  # points after which a line across the table goes on below

LETTERS = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi"
)
GREEK = dict(zip("αβγδεζηθικλμνξπρστυφχψω", [*LETTERS.split(" "), "omega"], strict=True))
SIGNS = {
    **{sign: rf"\{sign}" for sign in "&%#_${}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''",
    "[": "{[}", "]": "{]}", "*": "{*}",  # which `\\` before them would take for its own
    "\N{PLUS-MINUS SIGN}": r"$\pm$", "\N{MULTIPLICATION SIGN}": r"$\times$", "\N{NOT EQUAL TO}": r"$\neq$",
    "\N{MINUS SIGN}": "$-$", "\N{EM DASH}": "---", "\N{EN DASH}": "--", "\N{HORIZONTAL ELLIPSIS}": r"\ldots{}",
    "\N{DAGGER}": r"$\dagger$", "\N{DOUBLE DAGGER}": r"$\ddagger$", **{sign: rf"$\{name}$" for sign, name in
    GREEK.items()},
}  # fmt: skip
"""Signs that LaTeX would act on, or that its fonts lack."""
ACCENTS = dict(zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327",
                   [*"`'^~=u.\"rHvc"], strict=True))  # fmt: skip
JOINED = re.compile(r"(?<=-)(?=-)|(?<=[?!])(?=`)|(?<=')(?=')|(?<=`)(?=`)|(?<=,)(?=,)")
"""Where two signs would be set as one."""
EM = {
    0.345: "ijlf.,:;!'`[] ", 0.455: "crstezI()-", 0.505: "0123456789ago?$*/\\^_{}", 0.58: "bdhknpquvxySJ~",
    0.73: "ZLFEPBT\"", 0.79: "CRAHNUVXYDKOQwG+=<>&", 1.0: "mM#%@|", 1.03: "W",
}  # fmt: skip
"""Width in em of 10 points -> the signs that are no wider, in Computer Modern or Times."""
WIDE = 1.0
_OF = {sign: em for em, signs in EM.items() for sign in signs}
BOLD = 1.15
DESIGN = {9.0: 1.03, 8.0: 1.065, 7.0: 1.14}
"""By how much Computer Modern's smaller sizes are wider than its ten points, scaled."""


@dataclass(frozen=True)
class Cell:
    """A number of a table: 91.2 +- 1.3, a superscript after it; in parentheses if it is someone else's."""

    value: str = ""
    spread: str = ""
    note: str = ""
    """Small print after it."""
    mark: str = ""
    bold: bool = False
    quoted: bool = False


NONE = Cell(MISSING)


class Line(NamedTuple):
    """A row of a table; without cells a heading across it."""

    label: str
    cells: Sequence[Cell] = ()
    rule: bool = False
    """Whether a line is drawn above it."""
    italic: bool = False


@dataclass(frozen=True)
class Sheet:
    """What a table holds: of every line as many cells as the head has names."""

    name: str
    """For `\\ref{tab:name}`."""
    caption: str
    head: Sequence[str]
    lines: Sequence[Line]


class Fit(NamedTuple):
    """A way to set a table."""

    size: str
    points: float
    gap: float
    """`\\tabcolsep`, in points."""
    head: float
    """Points after which the name of a column goes on below, unless its numbers are wider."""
    label: float
    """Points after which the name of a row does."""


# An explicit size: what \footnotesize is differs between classes, in some it is \small's.
EIGHT = r"\fontsize{8}{9.5}\selectfont"
FITS = (
    Fit(r"\small", 9.0, 5.0, 90.0, 150.0), Fit(r"\small", 9.0, 4.0, 60.0, 150.0), Fit(EIGHT, 8.0, 4.0, 60.0, 130.0),
    Fit(EIGHT, 8.0, 2.5, 30.0, 110.0),
)  # fmt: skip


def source(sheet: Sheet) -> str:
    """A table to paste or `\\input`: one float, or a longtable where it is long; one caption whatever its parts."""
    fit, parts = packed(sheet)
    name = re.sub(r"[^a-z0-9]+", "-", sheet.name.lower()).strip("-")
    caption = rf"\caption{{{escape(sheet.caption)}}}\label{{tab:{name}}}"
    if len(sheet.lines) * len(parts) > LONG:
        return "\n".join(_pages(sheet, fit, parts, caption)) + "\n"
    lines = [
        PREAMBLE,
        r"\begin{table}",
        rf"\centering{fit.size}",
        rf"\setlength{{\tabcolsep}}{{{fit.gap:g}pt}}",
        caption,
    ]
    for i, part in enumerate(parts):
        lines += [r"\par\medskip"] if i else []
        lines += [rf"\begin{{tabular}}{{{_columns(part)}}}", r"\toprule", _head(sheet, fit, part), r"\midrule"]
        lines += [*_body(sheet, fit, part), r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _pages(sheet: Sheet, fit: Fit, parts: Sequence[Sequence[int]], caption: str) -> Iterator[str]:
    """The same for several pages, each with the names of the columns."""
    yield from (LONG_PREAMBLE, rf"\begingroup{fit.size}", _gap(fit), r"\setlength{\LTcapwidth}{\linewidth}")
    for i, part in enumerate(parts):
        if i:
            yield r"\addtocounter{table}{-1}  % a part of the same table"
        head = [r"\toprule", _head(sheet, fit, part), r"\midrule"]
        yield rf"\begin{{longtable}}{{{_columns(part)}}}"
        yield from [] if i else [caption + r" \\"]
        yield from (
            *head,
            r"\endfirsthead",
            *head,
            r"\endhead",
            r"\midrule",
            r"\endfoot",
            r"\bottomrule",
            r"\endlastfoot",
        )
        yield from _body(sheet, fit, part)
        yield r"\end{longtable}"
    yield r"\endgroup"


def packed(sheet: Sheet) -> tuple[Fit, list[list[int]]]:
    """(how it is set, the columns of each of its parts): the largest type in which all columns fit, else in the
    smallest as few parts as do, and these as equal as can be."""
    every = list(range(len(sheet.head)))
    for fit in FITS:
        if breadth(sheet, fit, every) <= TEXT_WIDTH:
            return fit, [every]
    for count in range(2, len(every) + 1):
        for fit in FITS:
            bounds = [round(i * len(every) / count) for i in range(count + 1)]
            parts = [every[a:b] for a, b in pairwise(bounds)]
            if all(breadth(sheet, fit, part) <= TEXT_WIDTH for part in parts):
                return fit, parts
    return FITS[-1], [[i] for i in every]


def breadth(sheet: Sheet, fit: Fit, part: Sequence[int]) -> float:
    """Points that some of the columns take together with the names of the rows."""
    across = [max(_spans(line.label, HEADING, fit), default=0.0) for line in sheet.lines if not line.cells]
    label = max(
        (max(_spans(line.label, fit.label, fit), default=0.0) for line in sheet.lines if line.cells), default=0.0
    )
    columns = [max(_inner(sheet, fit, i), *_spans(sheet.head[i], _limit(sheet, fit, i), fit)) for i in part]
    return max([label + sum(columns) + 2 * fit.gap * len(part), *across])


def width(text: str, points: float, bold: bool = False) -> float:
    """Points that a text takes at most, set in a type of so many points."""
    return sum(_OF.get(one, WIDE) for one in text) * points * DESIGN.get(points, 1.0) * (BOLD if bold else 1.0)


def rounded(value: float, digits: int) -> str:
    """With so many digits after the point; what rounds to zero has no sign."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def escape(text: str) -> str:
    """The text as LaTeX that shows it, in any font encoding; a sign that no font has is named by its number."""
    parts = [SIGNS.get(one) or _letter(one) for one in JOINED.sub("\0", printable(text))]
    return "".join(parts).replace("\0", "{}")


def _letter(sign: str) -> str:
    if sign.isascii():
        return sign
    apart = unicodedata.normalize("NFD", sign)
    if len(apart) == 2 and apart[0].isascii() and apart[0].isalpha() and apart[1] in ACCENTS:
        return rf"\{ACCENTS[apart[1]]}{{{apart[0]}}}"
    return f"U+{ord(sign):04X}"


def _gap(fit: Fit) -> str:
    return rf"\setlength{{\tabcolsep}}{{{fit.gap:g}pt}}"


def _columns(part: Sequence[int]) -> str:
    return "@{}l" + "r" * len(part) + "@{}"


def _head(sheet: Sheet, fit: Fit, part: Sequence[int]) -> str:
    names = [_stacked(wrapped(sheet.head[i], _limit(sheet, fit, i), fit.points), "b", "r") for i in part]
    return " & ".join(["", *names]).lstrip() + r" \\"


def _body(sheet: Sheet, fit: Fit, part: Sequence[int]) -> Iterator[str]:
    for line in sheet.lines:
        if line.rule:
            yield r"\midrule"
        label = _stacked(wrapped(line.label, fit.label if line.cells else HEADING, fit.points), "t", "l")
        if not line.cells:
            yield rf"\multicolumn{{{1 + len(part)}}}{{@{{}}l@{{}}}}{{\textit{{{label}}}}} \\*"
            continue
        label = rf"\textit{{{label}}}" if line.italic else label
        yield " & ".join([label, *(_set(line.cells[i]) for i in part)]).lstrip() + r" \\"


def _set(cell: Cell) -> str:
    value = re.sub(r"^-(?=\d)", "$-$", escape(cell.value))
    value = rf"\textbf{{{value}}}" if cell.bold else value
    small = (rf"$\pm${escape(cell.spread)}" if cell.spread else "") + escape(cell.note)
    text = value + (rf" {{\scriptsize{'{}' if small[0].isalpha() else ''}{small}}}" if small else "")
    return (f"({text})" if cell.quoted else text) + (f"$^{{{_super(cell.mark)}}}$" if cell.mark else "")


def _super(mark: str) -> str:
    return "".join(SIGNS.get(one, one).strip("$") for one in mark)


def _inner(sheet: Sheet, fit: Fit, column: int) -> float:
    """Points of the widest number of a column."""
    return max((_taken(line.cells[column], fit.points) for line in sheet.lines if line.cells), default=0.0)


def _taken(cell: Cell, points: float) -> float:
    small = ("+" + cell.spread if cell.spread else "") + cell.note
    text = cell.value.replace("-", "+") + (" " if small else "")  # as wide as a minus
    around = width("()", points) if cell.quoted else 0.0
    return width(text, points, cell.bold) + width(small, SMALL) + around + MARK * len(cell.mark)


def _limit(sheet: Sheet, fit: Fit, column: int) -> float:
    return max(fit.head, _inner(sheet, fit, column))


def _spans(text: str, limit: float, fit: Fit) -> list[float]:
    return [width(line, fit.points) for line in wrapped(text, limit, fit.points)]


def wrapped(text: str, limit: float, points: float) -> list[str]:
    """The text in lines of at most so many points, broken after a space, a hyphen, an underscore or a slash, and
    within a word where that alone is too long."""
    lines = [""]
    for word in re.findall(r"[^\s\-_/]*[\s\-_/]?", _spelled(text)):
        if lines[-1] and width(lines[-1] + word.rstrip(), points) > limit:
            lines.append("")
        while width(word.rstrip(), points) > limit:
            sums = accumulate(width(one, points) for one in word)
            fits = max(1, sum(taken <= limit for taken in sums))
            lines[-1], word = word[:fits], word[fits:]
            lines.append("")
        lines[-1] += word
    return [line.rstrip() for line in lines if line.strip()] or [""]


def _spelled(text: str) -> str:
    """The text with the numbers of signs that no font has, as wide as it will be."""
    return "".join(one if one in SIGNS or not (spelled := _letter(one)).startswith("U+") else spelled
                   for one in printable(text))  # fmt: skip


def _stacked(lines: Sequence[str], where: str, side: str) -> str:
    if len(lines) == 1:
        return escape(lines[0])
    inner = r"\\".join(map(escape, lines))
    return rf"\begin{{tabular}}[{where}]{{@{{}}{side}@{{}}}}{inner}\end{{tabular}}"
