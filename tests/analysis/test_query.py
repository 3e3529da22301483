"""The options that tables, plots, stats and the report share mean the same in each: equal options, equal numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer

from analysis import plots, report, stats, tables
from analysis.figures import aggregate
from analysis.figures.material import Material
from analysis.plots import Save
from analysis.query import Query, names_in
from analysis.records.files import RecordError
from analysis.records.load import Records, load
from analysis.select import Rule
from tests.analysis.command import invoke, refused
from tests.analysis.synthetic import write_run

TASKS = [f"cube-single-play-singletask-task{i}-v0" for i in (1, 2)]
TUNED = ["avgf train_flow_steps=1", "avgf train_flow_steps=3"]
COMMANDS = {"tables": tables.app, "plots": plots.app, "stats": stats.app, "report": report.app}
Means = dict[tuple[str, str], float]
"""(task, label) -> what speaks for the run."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """On two tasks: vgf offline and online, fql, and two settings of avgf, which differ by evaluation, knob and seed;
    and fql by another protocol."""
    root = tmp_path_factory.mktemp("results")
    knobs = {"L_test": [0, 1]}
    size = {"seeds": 3, "episodes": 6, "seed_std": 4.0, "episode_std": 15.0}
    for i, task in enumerate(TASKS):
        for j, (method, settings, more) in enumerate((
            ("vgf", {}, {"knobs": knobs, "evaluations": 4}), ("fql", {}, {"evaluations": 4}),
            ("vgf", {}, {"knobs": knobs, "evaluations": 6, "offline": 4}),
            ("avgf", {"train_flow_steps": 1}, {"knobs": knobs, "evaluations": 4}),
            ("avgf", {"train_flow_steps": 3}, {"knobs": knobs, "evaluations": 4}),
            ("fql", {}, {"evaluations": 4, "protocol": "qam"}),
        )):  # fmt: skip
            write_run(root, method, "ogbench", task, f"{j}{i}".ljust(12, "c"), settings=settings, inference={},
                      effect=lambda t, s, j=j, i=i: 30 + 30 * t + 4 * i + 3 * j + 2 * s.get("L_test", 0),
                      **size, **more)  # type: ignore[arg-type]  # fmt: skip
    return root


def by_tables(root: Path, out: Path, *options: str) -> Means:
    """By scores.csv: of a run with several settings what speaks for it by default, unless a rule is asked for."""
    done = invoke(tables.app, root, "--out", out, *options)
    assert done.exit_code == 0, done
    cells = pd.read_csv(out / "scores.csv", keep_default_na=False)
    if "--select" not in options:
        several = cells.groupby(["task", "label"])["row"].transform("size") > 1
        cells = cells[~several | (cells["rule"] == Rule().name)]
    assert not cells.duplicated(["task", "label"]).any()
    return {(row["task"], row["label"]): float(row["mean"]) for row in cells.to_dict("records")}


def by_stats(root: Path, out: Path, labels: list[str], *options: str) -> Means:
    done = invoke(stats.app, root, "--out", out, "--compare", ",".join(labels), *options)
    assert done.exit_code == 0, done
    (path,) = out.glob("compare-*.csv")
    found: Means = {}
    for row in pd.read_csv(path).to_dict("records"):
        for side in ("first", "second"):
            found[row["task"], row[side]] = row[f"{side}_mean"]
    return found


def over_tasks(frame: pd.DataFrame) -> dict[str, float]:
    return frame[frame["statistic"] == "mean"].set_index("label")["value"].to_dict()


def by_plots(root: Path, out: Path, *options: str) -> dict[str, float]:
    done = invoke(plots.app, root, "--out", out, "--only", "aggregates", "--format", "png", *options)
    assert done.exit_code == 0, done
    return over_tasks(pd.read_csv(out / "ogbench" / "aggregates.csv"))


def by_report(root: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[Means, dict[str, float]]:
    """((task, row) -> mean of its table of scores, the figure over tasks that it asks of `plots.figures`)."""
    asked: list[tuple[Records, Query]] = []

    def kept(records: Records, out: Path, notes: list[str], save: Save, query: Query) -> Iterator[list[Path]]:
        asked.append((records, query))
        return iter(())

    monkeypatch.setattr("analysis.report.figures", kept)
    done = invoke(report.app, root, "--out", out, *options)
    assert done.exit_code == 0, done
    (table,) = re.findall(r'aria-label="Scores">(.*?)</table>', (out / "index.html").read_text(), re.DOTALL)
    found = {}
    for line in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)[1:]:
        cells = re.findall(r'data-v="([^"]*)">([^<]*)</td>', line)
        found[cells[0][1], cells[1][1]] = float(cells[2][0])  # after the suite, which heads the row
    ((records, query),) = asked
    of = aggregate.seed_means(Material(records, query))["ogbench"]
    return found, over_tasks(aggregate.aggregates(of, TASKS, "ogbench"))


OPTIONS = {
    "nothing": [],
    "the last two": ["--endpoint", "last-2"],
    "steps": ["--endpoint", "steps=1k,4000,6k"],
    "the area": ["--endpoint", "area"],
    "a fixed setting": ["--select", "fixed:1"],
    "held out": ["--select", "held-out"],
    "the oracle": ["--select", "oracle", "--endpoint", "last-2"],
    "methods": ["--methods", "vgf online, fql, avgf"],
    "labels": ["--methods", f"{TUNED[1]},vgf"],
    "a run": ["--run", "train_flow_steps=3"],
    "a fingerprint": ["--run", "30", "--run", "31"],
    "names": ["--names", "names.csv", "--methods", "vgf online,avgf"],
    "another protocol": ["--protocol", "qam"],
}


QUICK = {"a fixed setting"}


@pytest.mark.parametrize(
    "case", [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in OPTIONS]
)
def test_equal_options_give_equal_numbers(
    results: Path, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("names.csv").write_text("method,name\nvgf,VGF (ours)\navgf,A-VGF\n")
    options = OPTIONS[case] + ([] if "--protocol" in OPTIONS[case] else ["--protocol", "fql"])
    expected = by_tables(results, tmp_path / "t", *options)
    labels = list(dict.fromkeys(label for _, label in expected))
    assert {task for task, _ in expected} == set(TASKS)
    if len(labels) > 1:
        assert by_stats(results, tmp_path / "s", labels, *options) == pytest.approx(expected, rel=1e-6)
    means = {label: np.mean([expected[task, label] for task in TASKS]) for label in labels}
    assert by_plots(results, tmp_path / "p", *options) == pytest.approx(means, rel=1e-6)
    rows, figure = by_report(results, tmp_path / "r", monkeypatch, *options)
    assert figure == pytest.approx(means, rel=1e-6)
    cells = pd.read_csv(tmp_path / "t" / "scores.csv")
    table = {(row["task"].replace("-singletask", "").removesuffix("-v0"), row["row"]): row["mean"]
             for row in cells.to_dict("records")}  # fmt: skip
    assert rows == pytest.approx(table, rel=1e-6)


def test_what_is_shown(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which runs the options leave, in which order and under which names; --run touches no method with one run."""
    monkeypatch.chdir(tmp_path)
    Path("names.csv").write_text("vgf,VGF (ours)\navgf,A-VGF\n")

    def labels(*options: str) -> list[str]:
        done = invoke(tables.app, results, "--out", tmp_path, "--protocol", "fql", *options)
        assert done.exit_code == 0, done
        lines = (tmp_path / "scores.md").read_text().splitlines()
        rows = [
            line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ") and "---" not in line
        ]
        return [row for row in rows if row != "method"]

    one = ["--select", "fixed:1"]
    every = [*(f"{name} L_test=1" for name in TUNED), "fql", "vgf L_test=1", "vgf online L_test=1"]
    assert labels(*one) == every
    assert labels(*one, "--methods", "vgf online,fql,avgf") == [every[4], every[2], every[0], every[1]]
    assert labels(*one, "--methods", "vgf") == ["vgf L_test=1"]  # the online run is a method of its own
    assert labels(*one, "--run", "train_flow_steps=3") == every[1:]
    assert labels(*one, "--run", "40", "--run", "41") == every[1:]  # a fingerprint on each task
    assert labels(*one, "--run", "40") == every  # on the other task none is named, so both are there
    assert labels(*one, "--names", "names.csv") == [
        "A-VGF train_flow_steps=1 L_test=1", "A-VGF train_flow_steps=3 L_test=1", "VGF (ours) L_test=1",
        "VGF (ours) online L_test=1", "fql"]  # fmt: skip
    assert labels("--methods", "fql,vgf")[:3] == ["fql", "vgf L_test=0", "vgf L_test=1"]


REFUSED = {
    ("--methods", "vfg"): "--methods vfg: no run of it under",
    ("--methods", " "): "--methods: is empty",
    ("--run", "zz"): "--run 'zz': no run has such a fingerprint or setting",
    ("--endpoint", "first"): "--endpoint 'first' is none of: last, last-10, steps=800k,900k,1m, area",
    ("--select", "best"): "--select 'best' is none of: ",
    ("--select", "fixed:M=1"): "--select 'fixed:M=1': no run has a knob 'M'",
    ("--names", "nowhere.csv"): "--names nowhere.csv: no such file",
    ("--names", "same.csv"): "--names: fql and vgf would both be called X",
    ("--protocol", "some"): "--protocol some: no run is of it",
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("options", REFUSED)
def test_what_means_nothing_is_refused_before_anything_is_written(
    results: Path, name: str, options: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("same.csv").write_text("vgf,X\nfql,X\n")
    app: typer.Typer = COMMANDS[name]
    more = ("--compare", "vgf,fql") if name == "stats" else ()
    protocol = () if options[0] == "--protocol" else ("--protocol", "fql")
    line = refused(app, results, "--out", tmp_path / "out", *more, *options, *protocol)
    assert line.startswith(REFUSED[options]) and not (tmp_path / "out").exists()


def test_a_table_of_names(tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    path.write_text("\ufeffmethod,name\nvgf, VGF (ours)\n\nvgf online,VGF-O\n")
    assert names_in(path) == {"vgf": "VGF (ours)", "vgf online": "VGF-O"}
    query = Query(names=names_in(path))
    assert [query.shown(label) for label in ("vgf", "vgf online k=1", "vgf k=1", "vgf_qgf")] == [
        "VGF (ours)", "VGF-O k=1", "VGF (ours) k=1", "vgf_qgf"]  # fmt: skip
    for text, said in (("vgf\n", ":1: 'vgf' is no"), ("a,b\na,c\n", ":2: a stands there twice"), ("a,\n", ":1: ")):
        path.write_text(text)
        with pytest.raises(RecordError, match=re.escape(str(path))) as caught:
            names_in(path)
        assert said in str(caught.value)


def test_records_know_the_order_and_the_label_they_had(results: Path) -> None:
    query = Query.of("fql,avgf", protocol="fql")
    records = query.among(load(results, protocol="fql"))
    assert list(records.order) == ["fql", *TUNED]
    assert [run.label for run, _ in records.each()][:3] == ["fql", *TUNED]
    renamed = Query(names={"avgf": "A"}).among(records)
    assert {(run.label, run.renamed) for run in renamed.runs if run.method == "avgf"} == {
        ("A train_flow_steps=1", TUNED[0]), ("A train_flow_steps=3", TUNED[1])}  # fmt: skip
