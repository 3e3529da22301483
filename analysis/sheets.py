"""Scores for print: a table of environments and one of tasks, as LaTeX to be pasted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from analysis.choices import ORACLE
from analysis.compare import Terms
from analysis.latex import MISSING, NONE, Cell, Line, Sheet, rounded, source
from analysis.output import short
from analysis.scoreboard import Board, Row, Score, label

DIGITS = {"ogbench": 0}
"""Of a suite, after the point, where papers print other than one."""
UNFINISHED, FEWER = "\N{DAGGER}", "\N{DOUBLE DAGGER}"
BOLD = ("Bold: the largest mean of a row, and those that Welch's test does not find different from it at 5%, "
        "Holm-corrected over the row. One seed (no \N{PLUS-MINUS SIGN}) is never bold by a test.")  # fmt: skip


def tex(boards: Sequence[Board], terms: Terms) -> str:
    """LaTeX of every board: a table of environments where some have several tasks, and one of tasks."""
    head = "% Tables of scores, each to be pasted by itself; they fit a text block of 5.5 in.\n\n"
    return head + "\n".join(source(sheet) for board in boards for sheet in of_board(board, terms))


def of_board(board: Board, terms: Terms) -> Iterator[Sheet]:
    """The tables of a board."""
    digits = DIGITS.get(board.suite, 1)
    if board.groups:
        lines = [Line(row.name, _cells(row, digits), row.group == "", row.group == "") for row in board.groups]
        what = f"{board.title}, mean over the tasks of an environment"
        yield Sheet(f"{board.suite}-environments", caption(board, board.groups, what, terms), board.methods, lines)
    what = f"{board.title}, by task" if board.groups else board.title
    yield Sheet(
        f"{board.suite}-tasks", caption(board, board.tasks, what, terms), board.methods, list(_lines(board, digits))
    )


def _lines(board: Board, digits: int) -> Iterator[Line]:
    """A row a task; tasks of a group of several stand below its name and above their mean."""
    for number, (group, members) in enumerate(groupby(board.tasks, lambda row: row.group)):
        rows = list(members)
        if len(rows) == 1:
            yield Line(short(rows[0].name), _cells(rows[0], digits), rows[0].group == "", rows[0].mean)
            continue
        yield Line(group, rule=number > 0)
        for row in rows:
            yield Line("mean" if row.mean else label(row), _cells(row, digits), italic=row.mean)


def _cells(row: Row, digits: int) -> list[Cell]:
    return [NONE if score is None else _cell(score, digits) for score in row.scores]


def _cell(score: Score, digits: int) -> Cell:
    spread = "" if math.isnan(score.std) else rounded(score.std, digits)
    mark = ("" if score.finished else UNFINISHED) + (FEWER if score.seeds < score.meant else "")
    return Cell(rounded(score.mean, digits), spread, mark=mark, bold=score.best)


def caption(board: Board, rows: Sequence[Row], what: str, terms: Terms) -> str:
    """What the numbers are, which are bold, and what the marks mean that are there."""
    scores = [score for row in rows for score in row.scores]
    there = [score for score in scores if score]
    lines = [
        f"{what}. Mean \N{PLUS-MINUS SIGN} std over {_span(board.seeds)} seeds of {_span(board.episodes)} episodes "
        f"each; evaluation: {terms.endpoint}; test-time settings: {terms.rule}.",
        BOLD,
    ]
    if any(row.mean for row in rows):
        lines.append("A mean over tasks is one over the seeds that all of them have.")
    if any(not score.finished for score in there):
        lines.append(f"{UNFINISHED} not finished.")
    if any(score.seeds < score.meant for score in there):
        lines.append(f"{FEWER} fewer seeds than were started.")
    if len(there) < len(scores):
        lines.append(f"{MISSING} not run{', or not on all tasks of a mean' if any(row.mean for row in rows) else ''}.")
    if terms.rule.name == ORACLE:
        lines.append("The oracle picks settings on the episodes they are scored on: biased upward.")
    return " ".join(lines)


def _span(of: tuple[int, int]) -> str:
    return str(of[0]) if of[0] == of[1] else f"{of[0]}\N{EN DASH}{of[1]}"
