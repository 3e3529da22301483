"""The commands on other people's machines: terminals, notebooks, folders that are files, runs that were killed."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from analysis import plots, report, stats, tables, verdicts
from analysis.figures import style
from analysis.latex import escape
from analysis.records import load
from analysis.records.files import held
from tests.analysis.command import invoke, refused
from tests.analysis.synthetic import write_contest, write_run
from tests.harness.command import held as holding

ROOT = Path(__file__).parents[2]
APPS = {"tables": tables, "plots": plots, "report": report, "stats": stats, "verdicts": verdicts}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    write_run(root, "vgf", knobs={"L_test": [0, 1]}, seeds=2, episodes=4, evaluations=1)
    write_run(root, "fql", seeds=2, episodes=4, evaluations=1)
    return root


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | dict(options.pop("environment", {}))  # type: ignore[call-overload]
    return subprocess.run(
        [sys.executable, "-m", *map(str, command)], env=environment, capture_output=True, text=True, **options
    )  # type: ignore[call-overload, no-any-return]


NOTEBOOK = {"MPLBACKEND": "module://nowhere.backend_inline", "PYTHONIOENCODING": "ascii", "MPLCONFIGDIR": "/dev/null"}


@pytest.mark.slow
@pytest.mark.parametrize("backend", [NOTEBOOK["MPLBACKEND"], "nonsense"])
def test_a_notebook_s_backend_is_not_asked_for(backend: str, tmp_path: Path) -> None:
    done = run("analysis.plots", tmp_path / "none", environment=NOTEBOOK | {"MPLBACKEND": backend})
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == f"error: no folder {tmp_path / 'none'}"


@pytest.mark.slow
def test_a_report_from_a_notebook_s_terminal(results: Path, tmp_path: Path) -> None:
    """There, a matplotlibrc asks for TeX, its folder cannot be written, and the terminal is ASCII."""
    (tmp_path / "matplotlibrc").write_text("text.usetex: true\nsavefig.dpi: 10\n")
    done = run("analysis.report", results, "--out", tmp_path / "report", cwd=tmp_path, environment=NOTEBOOK)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert (tmp_path / "report" / "index.html").exists()


def test_figures_have_our_settings_alone() -> None:
    with style.plt.rc_context({"text.usetex": True, "savefig.dpi": 10, "axes.titlesize": 30}):
        style.theme()
        assert not style.plt.rcParams["text.usetex"] and style.plt.rcParams["savefig.dpi"] == "figure"
    assert style.plt.get_backend().lower() == "agg"


@pytest.mark.slow
def test_no_process_outlives_one_that_is_killed(tmp_path: Path) -> None:
    """What was drawn is whole, and the same command draws the rest."""
    write_contest(tmp_path, 34, episodes=4, evaluations=3)
    command = [sys.executable, "-m", "analysis.plots", str(tmp_path), "--format", "svg", "--jobs", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as drawing:
        assert drawing.stdout is not None and drawing.stdout.readline().startswith(str(tmp_path / "figures"))
        workers = psutil.Process(drawing.pid).children()
        assert len(workers) == 2
        drawing.kill()
        assert not psutil.wait_procs(workers, timeout=30)[1]
    assert all(path.read_text().endswith("</svg>\n") for path in tmp_path.rglob("figures/**/*.svg")
               if not path.name.startswith("."))  # fmt: skip
    for left in (path for path in tmp_path.rglob("*") if path.name.startswith(".")):
        os.utime(left, (0, 0))  # drafts of the last minute stay: somebody may be about to lock them
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]  # beside each other
    assert [one.wait() for one in both] == [0, 0]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


@pytest.mark.slow
def test_an_ascii_terminal_and_nobody_who_reads(results: Path, tmp_path: Path) -> None:
    arguments = ("analysis.tables", results, "--out", tmp_path / "out")
    shown = run(*arguments, environment={"PYTHONIOENCODING": "ascii:strict"})
    assert shown.returncode == 0 and shown.stderr == "" and "+-" in shown.stdout and shown.stdout.isascii()
    read, write = os.pipe()
    os.close(read)
    closed = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)], stdout=write, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(write)
    assert closed.returncode != 0 and closed.stderr == ""
    assert len(pd.read_csv(tmp_path / "out" / "scores.csv")) == 5  # fql; vgf at two settings, new-seeds, held-out


def test_a_full_disk_is_one_line_and_leaves_nothing(results: Path, tmp_path: Path) -> None:
    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))

    done = run("analysis.tables", results, "--out", tmp_path, preexec_fn=small)
    assert done.returncode == 2 and done.stderr.startswith("error: File too large") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", APPS)
def test_an_out_that_is_no_folder(results: Path, name: str, tmp_path: Path) -> None:
    (file := tmp_path / "file").write_text("mine")
    more = ["--compare", "vgf,fql"] if name == "stats" else []
    for out, why in (
        (file, f"{file} is not a folder"), (file / "x", f"{file} is not a folder"), ("/dev/full", "/dev/full is not a"),
        ("/dev/null/x", "/dev/null is not a folder"), ("", "is empty"),
    ):  # fmt: skip
        line = refused(APPS[name].app, results, *more, "--out", out)
        assert "--out" in line and why in line
    assert file.read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == ["file"]
    assert "is empty" in refused(APPS[name].app, "", *more)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--select fixed:M=1", "no run has a knob 'M'"), ("--run nope", "--run 'nope': no run has"),
        ("--methods some", "--methods some: no run of it"),
        ("--oracle --select oracle", "--oracle goes without --select"),
        ("--margin 3", "--margin goes with --paper only"), ("--correct bh", "--correct goes with --paper only"),
        ("--published .", "--published goes with --paper only"),
        ("--paper all --oracle", "--oracle does not go with --paper"),
        ("--paper all --budget", "--budget does not go with --paper"),
        ("--paper=", "--paper: is empty"),
        ("--paper all --margin inf", "--margin inf"), ("--paper all --margin nan", "--margin nan"),
        ("--paper all --margin -1", "--margin -1"), ("--paper all --margin 0", "--margin 0"),
        ("--paper all --correct some", "--correct some is none of"), ("--paper table9", "--paper table9"),
        ("--paper all --run nope", "--run 'nope': no run has"), ("--paper all --run a=b", "--run 'a=b': no run has"),
        ("--paper all --run=", "--run ''"), ("--paper all --select fixed:M=1", "no run has a knob 'M'"),
        ("--paper all --select fixed:nan", "--select 'fixed:nan' is none of"),
        ("--paper all --select fixed:N=1,N=2", "--select 'fixed:N=1,N=2' is none of"),
        ("--paper all --select some", "--select 'some' is none of"), ("--endpoint some", "--endpoint 'some' is none"),
        (f"--endpoint steps={'9' * 400}", "is none of"), ("--endpoint last-0", "is none of"),
        ("--published nowhere --paper all", "no published numbers under nowhere"),
    ],
)  # fmt: skip
def test_options_that_mean_nothing(results: Path, arguments: str, said: str, tmp_path: Path) -> None:
    assert said in refused(tables.app, results, "--out", tmp_path / "out", *arguments.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("app", "arguments", "said"),
    [
        (stats.app, ["--compare", ""], "name two methods"), (stats.app, ["--compare", "vgf,"], "name two methods"),
        (stats.app, ["--compare", "vgf,fql,"], "name two methods"), (stats.app, ["--compare", "vgf,vgf"], "name two"),
        (stats.app, ["--compare", "vgf,nope"], "no run of nope"),
        (stats.app, ["--compare", "vgf,fql", "--run", "nope"], "--run 'nope'"),
        (stats.app, ["--compare", "vgf,fql", "--select", "fixed:M=1"], "no run has a knob 'M'"),
        (verdicts.app, ["--compare", ""], "--compare '': name two"), (verdicts.app, ["--compare", "vgf"], "name two"),
        (verdicts.app, ["--compare", "vgf,,fql"], "name two"), (verdicts.app, ["--judge", ""], "--judge is empty"),
    ],
)  # fmt: skip
def test_comparisons_of_nothing(results: Path, app: object, arguments: list[str], said: str) -> None:
    assert said in refused(app, results, *arguments)  # type: ignore[arg-type]


def test_a_killed_run_is_told_from_a_live_one(tmp_path: Path) -> None:
    folder = write_run(tmp_path, seeds=2, episodes=2, evaluations=1, status="running")
    assert held(folder / "lock") is False
    with holding(folder) as process:
        assert held(folder / "lock") is True
        (found,) = (records := load.load(tmp_path)).runs
        assert found.status == "running" and "is still running, last written 20" in records.notes[0]
        process.kill()
        process.wait()
        (found,) = (records := load.load(tmp_path)).runs
        assert found.status == "killed" and "was killed (or stopped) before its end, last written" in records.notes[0]
    (folder / "lock").unlink()
    (folder / "lock").symlink_to("elsewhere")  # cannot be found out
    assert held(folder / "lock") is None
    assert "was running when it last wrote, last written" in load.load(tmp_path).notes[0]


def test_a_run_of_another_machine_is_not_called_killed(tmp_path: Path) -> None:
    """Copied, or mounted, while it ran there: its lock is free here."""
    folder = write_run(tmp_path, seeds=2, episodes=2, evaluations=1, status="running")
    (folder / "lock").touch()
    for owner, status in (("7 another-node\n", "running"), (f"7 {platform.node()}\n", "killed"), ("", "killed")):
        (folder / "owner").write_text(owner)
        (found,) = (records := load.load(tmp_path)).runs
        assert found.status == status
        assert ("was running when it last wrote, last written 20" in records.notes[0]) == (status == "running")


def test_a_home_is_spelled_out_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "res", "fql", seeds=2, episodes=4, evaluations=1)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(here := tmp_path / "res" / "runs")
    before = sorted(here.iterdir())
    for app, more in ((tables, ()), (report, ()), (tables, ("--paper", "all", "--published", "~/none"))):
        done = invoke(app.app, "~/res", "--out", "~/out", *more)
        assert str(tmp_path / "none") in done.stderr if more else done.exit_code == 0, done
    assert (tmp_path / "out" / "scores.csv").exists() and sorted(here.iterdir()) == before


@pytest.mark.parametrize(("app", "option"), [(tables, "--paper"), (stats, "--compare"), (stats, "--run")])
def test_an_empty_option_is_refused(results: Path, app: Any, option: str) -> None:
    compare = ("--compare", "vgf,fql") if option == "--run" else ()
    assert refused(app.app, results, *compare, f"{option}=").startswith(option)


def test_published_numbers_of_a_stranger(results: Path, tmp_path: Path) -> None:
    """Rows and files that are none are notes; a table's name leads nowhere, and none steers TeX."""
    head = "table,suite,environment,task,method,mean,std,seeds,steps,protocol,source\n"
    good = "t,toy,toy,toy,FQL,50,2,5,1000,x,y\n"
    (folder := tmp_path / "published").mkdir()
    (folder / "a.csv").write_bytes(b"\xef\xbb\xbf" + (head + good).replace("\n", "\r\n").encode())
    bad = [
        "../t,toy,toy,toy,FQL,50,2,5,1000,x,y",
        good.replace("50", "nan").strip(),
        good.replace(",2,", ",-2,").strip(),
    ]
    (folder / "b.csv").write_text(head + "\n".join([*bad, good.replace(",5,", ",0,")]))
    (folder / "c.csv").write_text(head.replace("source", "source,"))
    (folder / "d.csv").write_text(head + '"' + "x" * 200_000 + '",' + good)
    os.mkfifo(folder / "e.csv")
    done = invoke(tables.app, results, "--paper", "all", "--published", folder, "--out", tmp_path / "out")
    assert done.exit_code == 0, done
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["t.csv", "t.md", "t.tex"]
    for said in (
        "table '../t'",
        "mean is 'nan'",
        "std is '-2'",
        "seeds is '0'",
        "c.csv:1: the header",
        "d.csv:",
        "is not a plain file",
    ):
        assert said in done.stdout, said
    assert escape(r"\input{x}$^~_&%#") == (
        r"\textbackslash{}input\{x\}\$\textasciicircum{}\textasciitilde{}\_\&\%\#"
    )  # fmt: skip


def test_drafts_of_a_killed_command_are_swept(results: Path, tmp_path: Path) -> None:
    (old := tmp_path / f".scores.{'0' * 16}.tmp.csv").write_text("half")
    os.utime(old, (0, 0))
    assert invoke(tables.app, results, "--out", tmp_path).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.csv", "scores.md", "scores.tex"]
