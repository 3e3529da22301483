"""Runs of different protocols of a suite stand side by side only when that is asked for, and then it is said."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import tasks
from analysis import plots, report, stats, tables, tune, verdicts
from analysis.compare import Terms, compare
from analysis.figures.captions import told
from analysis.missing import gaps
from analysis.published import read
from analysis.records.files import RecordError
from analysis.records.load import load
from analysis.records.protocols import EVERY, heading
from analysis.records.runs import PROTOCOLS
from analysis.select import scores
from tests.analysis.command import invoke, refused
from tests.analysis.synthetic import write_run

TASK = "cube-double-play-singletask-task1-v0"
COMMANDS = {"tables": tables.app, "plots": plots.app, "tune": tune.app, "report": report.app}
REFUSED = ("ogbench has runs of protocols fql, qam, which are compared only when asked for: --protocol fql, "
           "--protocol qam, or --protocol fql,qam for all side by side")  # fmt: skip


def write(root: Path, method: str, protocol: str | None, level: float, suite: str = "ogbench", **rest: object) -> None:
    """A run of 3 seeds x 4 episodes that all score `level`; None: a record of before there were protocols."""
    said = {} if protocol is None else {"protocol": protocol}
    mark = f"{method}{protocol}{level:g}".encode().hex()[-12:]
    write_run(root, method, suite, "toy" if suite == "toy" else TASK, mark, effect=lambda t, s: level, seeds=3,
              episodes=4, evaluations=1, seed_std=0.0, episode_std=0.0, **{**said, **rest})  # type: ignore[arg-type]  # fmt: skip


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """FQL and IFQL by either protocol, and FQL on the toy, which has no names for protocols."""
    write(tmp_path, "fql", None, 10.0)
    write(tmp_path, "ifql", "fql", 20.0)
    write(tmp_path, "fql", "qam", 60.0)
    write(tmp_path, "ifql", "qam", 70.0)
    write(tmp_path, "fql", "", 40.0, "toy")
    return tmp_path


def cells(root: Path, protocol: str | None) -> dict[tuple[str, str], float]:
    frame, _ = scores(load(root, protocol=protocol))
    return {(row["suite"], row["row"]): row["mean"] for row in frame.to_dict("records")}


def test_the_default_protocol_is_the_suite_s() -> None:
    for suite in tasks.SUITES:
        assert PROTOCOLS.get(suite, "") == next(iter(tasks.about(suite).protocols))


def test_one_of_several_has_to_be_named(both: Path) -> None:
    with pytest.raises(RecordError) as caught:
        load(both)
    assert str(caught.value) == REFUSED
    toy = {("toy", "fql"): 40.0}  # whose suite has one protocol
    assert cells(both, "fql") == {("ogbench", "fql"): 10.0, ("ogbench", "ifql"): 20.0} | toy
    assert cells(both, "qam") == {("ogbench", "fql"): 60.0, ("ogbench", "ifql"): 70.0} | toy
    side_by_side = {("ogbench", "fql [fql]"): 10.0, ("ogbench", "ifql [fql]"): 20.0, ("ogbench", "fql [qam]"): 60.0,
                    ("ogbench", "ifql [qam]"): 70.0} | toy  # fmt: skip
    assert cells(both, "fql,qam") == cells(both, EVERY) == side_by_side


def test_it_is_said_whose_runs_are_shown(both: Path) -> None:
    qam = load(both, protocol="qam")
    assert "ogbench: 2 runs of protocol fql left out" in qam.notes
    assert {run.protocol for run in qam.runs if run.suite == "ogbench"} == {"qam"}
    assert told(qam)[Path("ogbench", TASK)] == ["ogbench (protocol qam)"] == told(qam)[Path("ogbench")]
    assert not told(load(both, protocol="fql"))
    assert any(note.startswith("ogbench: protocols fql and qam stand side by side") for note in
               load(both, protocol="qam,fql").notes)  # fmt: skip
    assert [heading("ogbench", names) for names in ([], ["fql"], ["qam", "qam"], ["qam", "fql"])] == [
        "ogbench", "ogbench", "ogbench (protocol qam)", "ogbench (protocols fql and qam)"]  # fmt: skip
    assert heading("toy", ["", ""]) == "toy"


def test_runs_of_one_protocol_need_no_option(tmp_path: Path) -> None:
    write(tmp_path, "fql", "qam", 60.0)
    assert cells(tmp_path, None) == {("ogbench", "fql"): 60.0}
    shown = invoke(tables.app, tmp_path, "--out", tmp_path / "out")
    assert shown.exit_code == 0 and "ogbench (protocol qam): 3 seeds x 4 episodes" in shown.stdout
    assert "## ogbench (protocol qam): cube" in (tmp_path / "out" / "scores.md").read_text()
    assert pd.read_csv(tmp_path / "out" / "scores.csv")["protocol"].tolist() == ["qam"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_until_it_is_asked(name: str, both: Path, tmp_path: Path) -> None:
    out = () if name == "tune" else ("--out", tmp_path / "out")
    assert refused(COMMANDS[name], both, *out) == REFUSED
    assert refused(COMMANDS[name], both, *out, "--protocol", "qm") == (
        "--protocol qm: no run is of it; did you mean 'qam'?")  # fmt: skip
    assert refused(COMMANDS[name], both, *out, "--protocol", " ") == "--protocol: is empty"
    assert not (tmp_path / "out").exists()


def test_verdicts_of_language_do_not_mind(both: Path) -> None:
    assert "no verdicts" in refused(verdicts.app, both)


def test_stats_compare_methods_of_one_protocol_or_one_method_of_two(both: Path) -> None:
    out = ("--out", both / "out")
    assert refused(stats.app, both, "--compare", "fql,ifql", *out) == REFUSED
    assert invoke(stats.app, both, "--compare", "fql,ifql", "--protocol", "qam", *out).exit_code == 0
    row = pd.read_csv(both / "out" / "compare-fql-ifql.csv").iloc[0]
    assert (row["first_mean"], row["second_mean"]) == (60.0, 70.0)
    across = invoke(stats.app, both, "--compare", "fql [fql],fql [qam]", "--protocol", "fql,qam", *out)
    assert across.exit_code == 0 and "stand side by side as asked for" in across.stdout
    assert pd.read_csv(both / "out" / "compare-fql [fql]-fql [qam].csv")["difference"].tolist() == [-50.0]


def test_a_sweep_is_of_one_protocol(tmp_path: Path) -> None:
    """Runs that differ by their protocol are no two settings of one sweep; picks have a table for each protocol."""
    for protocol, level in (("fql", 10.0), ("qam", 60.0)):
        for alpha in (1.0, 3.0):
            write(tmp_path, "fql", protocol, level + alpha, settings={"alpha": alpha})
    shown = invoke(tune.app, tmp_path, "--protocol", "qam", "--rule", "heldout-seeds")
    assert "rows for ogbench/settings_qam.csv:" in shown.stdout and "alpha=3.0" in shown.stdout
    both = invoke(tune.app, tmp_path, "--protocol", "fql,qam", "--rule", "heldout-seeds").stdout
    assert both.count("alpha=1.0") == 2 and "fql [fql]" in both and "fql [qam]" in both
    assert "rows for ogbench/settings.csv:" in both and "rows for ogbench/settings_qam.csv:" in both


# ---- beside published numbers ----


def test_published_numbers_have_the_protocol_of_their_paper(both: Path) -> None:
    """Those of Table 7 were had by FQL's: runs of another count beside them only where it is named alone."""
    rows, _ = read()
    rows = rows[(rows["table"] == "table7") & (rows["task"] == TASK) & (rows["method"] == "FQL")]

    def measured(protocol: str, *asked: str) -> tuple[float, str, list[str]]:
        frame, notes = compare(load(both, protocol=protocol), rows, Terms(protocols=asked))
        return frame["measured"].iloc[0], frame["remark"].iloc[0], [note for note in notes if "laid" in note]

    left = ["ogbench: runs of protocol qam are not laid beside numbers of fql; --protocol qam does"]
    for words in ((EVERY,), ("fql,qam", "fql", "qam")):
        value, remark, notes = measured(*words)
        assert value == 10.0 and "protocol" not in remark and notes == left
    value, remark, notes = measured("qam", "qam")
    assert value == 60.0 and "protocol qam, published fql" in remark and not notes


def test_the_paper_s_table_takes_its_own_protocol(both: Path) -> None:
    words = ("--paper", "table7", "--out", both / "out")
    assert invoke(tables.app, both, *words).exit_code == 0
    frame = pd.read_csv(both / "out" / "table7.csv").set_index(["task", "published_method"])
    assert frame.loc[(TASK, "FQL"), "measured"] == 10.0
    assert invoke(tables.app, both, *words, "--protocol", "qam").exit_code == 0
    frame = pd.read_csv(both / "out" / "table7.csv").set_index(["task", "published_method"])
    assert frame.loc[(TASK, "FQL"), "measured"] == 60.0


def test_what_is_missing_is_asked_for_by_its_protocol(both: Path) -> None:
    rows, _ = read()
    commands = {gap.what: gap.command for gap in gaps(load(both, protocol="fql,qam"), rows)}
    assert "--protocol qam --seeds" in commands["ogbench/cube-double-play-singletask-task1-v0 fql [qam]"]
    assert "--protocol" not in commands["ogbench/cube-double-play-singletask-task1-v0 fql [fql]"]


@pytest.mark.slow
def test_a_report_says_whose_runs_it_shows(both: Path) -> None:
    page = both / "report" / "index.html"
    assert invoke(report.app, both, "--out", both / "report", "--protocol", "qam").exit_code == 0
    text = page.read_text()
    assert "<td>qam</td>" in text or ">qam<" in text
    assert "2 runs of protocol fql left out" in text
