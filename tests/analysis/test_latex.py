"""Tables for print: they fit, measured with the fonts' own metrics; their source is sound whatever is named in them;
what is bold is the best of its row, by hand-computed tests."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from analysis import tables
from analysis.compare import Terms
from analysis.latex import (
    BOLD,
    DESIGN,
    FITS,
    TEXT_WIDTH,
    Cell,
    Line,
    Sheet,
    escape,
    packed,
    rounded,
    source,
    width,
    wrapped,
)
from analysis.latex import breadth as counted
from analysis.query import Query
from analysis.records.load import load
from analysis.scoreboard import Board, best, boards, label
from analysis.sheets import of_board, tex
from analysis.statistics.significance import sample
from tests.analysis.command import invoke
from tests.analysis.synthetic import split, write_run
from tests.analysis.typeset import breadths, sign, sound

TEX = next(filter(None, map(shutil.which, ("pdflatex", "lualatex", "xelatex", "tectonic"))), None)
FAMILIES = ("modern", "times")
EXACT = {"evaluations": 1, "seed_std": 0.0, "episode_std": 0.0, "episodes": 4}
HOSTILE = (
    r"\input{/etc/passwd}", "a_b^c~d", "50% & more #1 $x$", "{", "[1ex]", "*", "x" * 90, "an-environment-of-" * 9,
    "é β 😀 ł", "--- `` '' ?` <|>", '"q"', "=+-@", "\\\\", "%",
)  # fmt: skip


def sheet(columns: int, rows: int = 5, heads: Sequence[str] = (), labels: Sequence[str] = ()) -> Sheet:
    """A table of wide numbers, bold and marked."""
    cell = Cell("-100.0", "100.0", mark="\N{DAGGER}", bold=True)
    names = [*labels, *(f"cube-quadruple-play-task{i}" for i in range(rows - len(labels)))]
    head = [*heads, *(f"method {i}" for i in range(columns - len(heads)))]
    return Sheet("a table", "What it shows.", head, [Line(name, [cell] * columns) for name in names])


def exact(root: Path, method: str, task: str, level: float, seeds: int = 3, step: float = 1.0, **more: object) -> None:
    """A run whose seed k scores `level + k * step` on every episode."""
    folder = write_run(root, method, more.pop("suite", "ogbench"), task, seeds=seeds, effect=lambda t, s: level,
                       **EXACT, **more)  # type: ignore[arg-type]  # fmt: skip
    path = folder / "episodes.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    for row in rows[1:]:
        row[-1] = str(float(row[-1]) + int(row[0]) * step)
    path.write_text("\n".join(map(",".join, rows)) + "\n")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of one environment and one of another, of two methods; the second has no scene."""
    root = tmp_path_factory.mktemp("results")
    for task, level in (("cube-single-play-singletask-task1-v0", 90.0), ("cube-single-play-singletask-v0", 80.0)):
        exact(root, "vgf", task, level)
        exact(root, "my_method", task, level - 3, step=2.0)
    exact(root, "vgf", "scene-play-singletask-task1-v0", 10.0, status="running")
    return root


def board(root: Path) -> Board:
    (found,), notes = boards(load(root))
    assert notes == []
    return found


def test_widths_are_at_least_the_fonts() -> None:
    """Of every sign at every size and weight, in both families; and not much more, over words and numbers."""
    for points in DESIGN:
        for bold in (False, True):
            for one in map(chr, range(33, 127)):
                if not bold or one in "0123456789.+":  # nothing but numbers is bold
                    need = max(sign(one, points, bold, family) for family in FAMILIES)
                    assert width(one, points, bold) >= 0.999 * need, (one, points, bold)
    for word in ("100.0", "cube-quadruple-play-task5", "Diffusion-QL", "humanoidmaze-large-navigate"):
        for points in DESIGN:
            real = max(sum(sign(one, points, False, family) for one in word) for family in FAMILIES)
            assert width(word, points) <= 1.12 * real
            heavy = max(sum(sign(one, points, True, family) for one in word) for family in FAMILIES)
            assert width(word, points, True) >= heavy
    assert width("00", 9.0) == pytest.approx(2 * 0.505 * 9 * DESIGN[9.0]) and BOLD == 1.15


@pytest.mark.parametrize("columns", [1, 2, 4, 5, 7, 9, 14, 40])
@pytest.mark.parametrize("rows", [3, 45])
def test_every_table_fits(columns: int, rows: int) -> None:
    table = sheet(columns, rows)
    text = source(table)
    sound(text)
    for family in FAMILIES:
        assert max(breadths(text, family)) <= TEXT_WIDTH
    assert text.count(r"\caption") == 1 and text.count(r"\label{tab:a-table}") == 1
    assert (r"\begin{longtable}" in text) == (rows * len(packed(table)[1]) > 30)
    shown = re.findall(r"method (?:\\\w+\{\}|[\w{}])*?(\d+)", text)
    assert set(map(int, shown)) == set(range(columns))  # no column is lost


def test_a_table_is_as_large_as_fits_and_its_parts_are_alike() -> None:
    fits = [packed(sheet(columns)) for columns in range(1, 15)]
    assert fits[0][0] == FITS[0] and fits[3][1] == [[0, 1, 2, 3]]
    for columns, (fit, parts) in enumerate(fits, start=1):
        assert [one for part in parts for one in part] == list(range(columns)) and max(map(len, parts)) - min(
            map(len, parts)
        ) <= 1
        if len(parts) > 1:  # all of them would not fit together, nor in fewer
            assert counted(sheet(columns), FITS[-1], range(columns)) > TEXT_WIDTH
        elif fit != FITS[0]:
            assert counted(sheet(columns), FITS[FITS.index(fit) - 1], range(columns)) > TEXT_WIDTH


@pytest.mark.parametrize("rows", [len(HOSTILE), 45])
def test_hostile_names_are_text(rows: int) -> None:
    table = sheet(len(HOSTILE), rows, heads=HOSTILE, labels=HOSTILE)
    lines = [*table.lines, *(Line(name) for name in HOSTILE)]
    text = source(Sheet(r"\evil{} & co", " ".join(HOSTILE), table.head, lines))
    sound(text)
    assert r"\input" not in text and r"\label{tab:evil-co}" in text
    for family in FAMILIES:
        assert max(breadths(text, family)) <= TEXT_WIDTH


def test_signs_that_latex_acts_on_are_escaped() -> None:
    assert escape(r"\a{b}_^~&%#$") == r"\textbackslash{}a\{b\}\_\textasciicircum{}\textasciitilde{}\&\%\#\$"
    assert escape("a -- b, c--- ''") == "a -{}- b, c-{}-{}- '{}'"
    assert escape("[2ex] *") == "{[}2ex{]} {*}" and escape("<|>") == r"\textless{}\textbar{}\textgreater{}"
    assert escape("é ñ ç β ł ±") == r"\'{e} \~{n} \c{c} $\beta$ U+0142 $\pm$"
    assert escape("a\nb\x1b") == r"a\textbackslash{}nb\textbackslash{}x1b"


def test_long_names_are_broken_where_they_may_be() -> None:
    assert wrapped("antmaze-giant-navigate", 70.0, 8.0) == ["antmaze-giant-", "navigate"]
    assert wrapped("two words", 25.0, 8.0) == ["two", "words"] and wrapped("", 9.0, 8.0) == [""]
    pieces = wrapped("x" * 30, 45.0, 8.0)
    assert "".join(pieces) == "x" * 30 and all(width(one, 8.0) <= 45.0 for one in pieces)


def test_numbers_have_no_negative_zero() -> None:
    assert [rounded(-0.04, 1), rounded(-0.06, 1), rounded(-0.4, 0), rounded(99.96, 1)] == ["0.0", "-0.1", "0", "100.0"]


def test_what_is_bold() -> None:
    """Welch of 4, 5, 6 against 1, 2, 3: t = 3 / sqrt(2/3) = 3.674, four degrees of freedom, p = 0.0213; against 3, 4,
    5: t = 1.2247, p = 0.288. Holm doubles the smaller of two (0.0426), and three times 0.0213 is 0.064."""
    high, near, low, one, less, more = (sample(np.array(values, float)) for values in
                                        ([4, 5, 6], [3, 4, 5], [1, 2, 3], [5], [4.9], [7]))  # fmt: skip
    assert best([low, high]) == [False, True]
    assert best([high, near, low]) == [True, True, False]
    assert best([high, low, low, low]) == [True] * 4  # too many comparisons to tell
    assert best([high, one]) == [True, True]  # as large as the largest
    assert best([high, less]) == [True, False]  # one seed: no test
    assert best([more, high]) == [True, False] and best([]) == []
    tie = [sample(np.array(values)) for values in ([0.1, 0.2, 0.3], [0.3, 0.2, 0.1])]  # but for the order of the sum
    assert best(tie) == [True, True]


def test_a_board_by_hand(results: Path) -> None:
    """VGF: 90, 91, 92 and 80, 81, 82, so 85, 86, 87 over the environment; the other: 87, 89, 91 and 77, 79, 81, so 82,
    84, 86: t = 2 / sqrt(1/3 + 4/3) = 1.549, df = (5/3)^2 / ((1/3)^2/2 + (4/3)^2/2) = 2.94, p = 0.22. Not worse."""
    found = board(results)
    assert found.methods == ("my_method", "vgf") and found.seeds == (3, 3) and found.episodes == (4, 4)
    assert [(row.name, row.group, row.mean) for row in found.tasks] == [
        ("cube-single-play-singletask-task1-v0", "cube-single-play", False),
        ("cube-single-play-singletask-task2-v0", "cube-single-play", False),  # the default task, by its number
        ("cube-single-play", "cube-single-play", True),
        ("scene-play-singletask-task1-v0", "scene-play", False), ("Average", "", True),
    ]  # fmt: skip
    assert label(found.tasks[1]) == "task2" and [row.name for row in found.groups][:2] == [
        "cube-single-play",
        "scene-play",
    ]
    mine, theirs = found.groups[0].scores[1], found.groups[0].scores[0]
    assert mine is not None and theirs is not None
    assert (mine.mean, mine.std, mine.seeds, mine.best) == (86.0, pytest.approx(1.0), 3, True)
    assert (theirs.mean, theirs.std, theirs.best) == (84.0, pytest.approx(2.0), True)
    scene, average = found.groups[1].scores, found.groups[-1].scores
    assert scene[0] is None and average[0] is None and scene[1] is not None and not scene[1].finished
    assert average[1] is not None and (average[1].mean, average[1].std) == pytest.approx((61.0, 1.0))


def test_the_source_of_a_board(results: Path) -> None:
    sheets = list(of_board(board(results), Terms()))
    assert [one.name for one in sheets] == ["ogbench-environments", "ogbench-tasks"]
    by_environment, by_task = map(source, sheets)
    assert r"cube-single-play & \textbf{84} {\scriptsize$\pm$2} & \textbf{86} {\scriptsize$\pm$1} \\" in by_environment
    assert r"scene-play & --- & \textbf{11} {\scriptsize$\pm$1}$^{\dagger}$ \\" in by_environment
    assert r"& my\_method & vgf \\" in by_task and r"\multicolumn{3}{@{}l@{}}{\textit{cube-single-play}} \\*" in by_task
    assert r"scene-play-task1 & ---" in by_task and r"\textit{mean} & \textbf{84}" in by_task
    for said in ("3 seeds of 4 episodes", "Welch's test", r"at 5\%, Holm-corrected over the row", "never bold by",
                 r"$\dagger$ not finished", "--- not run"):  # fmt: skip
        assert said in by_task, said
    for text in (by_environment, by_task):
        sound(text)


def test_methods_stand_in_the_order_and_under_the_names_that_are_asked_for(results: Path) -> None:
    query = Query(methods=("vgf", "my_method"), names={"my_method": "A_B & C (ours)"})
    found, _ = boards(query.load(results))
    assert found[0].methods == ("vgf", "A_B & C (ours)")
    assert r"& vgf & A\_B \& C (ours) \\" in tex(found, Terms())


def test_d4rl_has_a_row_a_task_an_average_a_part_and_one_over_all(tmp_path: Path) -> None:
    for i, task in enumerate(("walker2d-medium-v2", "antmaze-umaze-v2", "hopper-medium-expert-v2", "hopper-medium-v2")):
        exact(tmp_path, "fql", task, 10.0 * i, suite="d4rl")
    found = board(tmp_path)
    assert found.groups == ()
    assert [row.name for row in found.tasks] == [
        "hopper-medium-v2", "walker2d-medium-v2", "hopper-medium-expert-v2", "Gym", "antmaze-umaze-v2",
        "Average"]  # fmt: skip
    gym, every = found.tasks[3].scores[0], found.tasks[5].scores[0]
    assert gym is not None and every is not None
    assert gym.mean == pytest.approx((0 + 20 + 30) / 3 + 1) and every.mean == pytest.approx(15 + 1)
    (one,) = of_board(found, Terms())
    assert r"hopper-medium & \textbf{31.0} {\scriptsize$\pm$1.0} \\" in source(one)


def test_missing_seeds_are_marked(tmp_path: Path) -> None:
    """One seed has no std; two of three that were started, of which one failed without a final evaluation, are 50 and
    51, told by a mark."""
    exact(tmp_path, "bc", "toy", 40.0, suite="toy", seeds=1)
    exact(tmp_path, "fql", "toy", 50.0, suite="toy")
    folders = split(tmp_path / "runs/toy/toy/fql/3f9a12c0ffee", seed2={"status": "failed", "error": "no memory"})
    (folders[2] / "episodes.csv").write_text((folders[2] / "episodes.csv").read_text().splitlines()[0] + "\n")
    (one,) = of_board(board(tmp_path), Terms())
    text = source(one)
    assert r"toy & 40.0 & \textbf{50.5} {\scriptsize$\pm$0.7}$^{\ddagger}$ \\" in text
    assert r"$\ddagger$ fewer seeds than were started" in text and "1--2 seeds" in text


def test_online_runs_are_columns_and_twins_of_a_task_are_not_pooled(tmp_path: Path) -> None:
    """What went on online counts by what it reached there; two runs of one task, by its number and as the default, are
    a note."""
    more = EXACT | {"evaluations": 4}
    went_on = lambda t, s: 100 * t  # noqa: E731
    write_run(tmp_path, "fql", fingerprint="a" * 12, offline=2, effect=went_on, **more)  # type: ignore[arg-type]
    write_run(tmp_path, "fql", fingerprint="b" * 12, effect=lambda t, s: 50.0, **more)  # type: ignore[arg-type]
    found = board(tmp_path)
    means = {name: score.mean for name, score in zip(found.methods, found.tasks[0].scores, strict=True) if score}
    assert means == {"fql": 50.0, "fql online": 100.0}
    for task in ("cube-single-play-singletask-v0", "cube-single-play-singletask-task2-v0"):
        exact(tmp_path, "vgf", task, 1.0)
    found_too, notes = boards(load(tmp_path))
    assert [one.suite for one in found_too] == ["toy"] and "neither is shown" in notes[0]


def test_the_command_writes_them(results: Path, tmp_path: Path) -> None:
    done = invoke(tables.app, str(results), "--out", str(tmp_path))
    assert done.exit_code == 0 and str(tmp_path / "scores.tex") in done.stdout
    text = (tmp_path / "scores.tex").read_text()
    assert text.count(r"\begin{table}") == 2 and text.startswith("% Tables of scores")
    assert text.count(r"% needs \usepackage{booktabs};") == 2


@pytest.mark.skipif(TEX is None, reason="no TeX is installed: the tables were measured, not compiled")
def test_tex_finds_no_overfull_box(results: Path, tmp_path: Path) -> None:
    bodies = [source(sheet(columns, rows, HOSTILE[:columns], HOSTILE)) for columns in (5, 14) for rows in (16, 45)]
    head = r"\documentclass[10pt]{article}\usepackage[textwidth=5.5in]{geometry}\usepackage{booktabs,longtable}"
    body = "\n".join([*bodies, tex([board(results)], Terms())])
    (tmp_path / "page.tex").write_text(f"{head}\n\\begin{{document}}\n{body}\n\\end{{document}}\n")
    for _ in range(3):  # a longtable settles its widths
        options = [] if "tectonic" in str(TEX) else ["-interaction=nonstopmode", "-halt-on-error"]
        done = subprocess.run(
            [str(TEX), *options, "page.tex"], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout[-2000:]
    said = done.stdout + done.stderr + ((tmp_path / "page.log").read_text() if (tmp_path / "page.log").exists() else "")
    assert r"Overfull \hbox" not in said
