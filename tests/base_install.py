"""What a wheel gives without extras, in a folder outside the source tree: `make test-base` installs it and runs this.

No test of the suite proper (its name hides it): it needs an environment of its own, whose Python is `BASE_PYTHON`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

import tasks

CUBE = "cube-single-play-singletask-v0"
LANGUAGE = [name for name in tasks.SUITES if tasks.family(name) == "language"]
TINY = ("--preset", "smoke", "--seeds", "2", "--steps", "20", "--set", "hidden_dims=8")


class Outside(NamedTuple):
    """The base installation, in a folder where no source lies."""

    folder: Path

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        chosen = {
            "OGBENCH_DATA_DIR": str(self.folder / "data"),
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
        }
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | chosen
        python = Path(os.environ["BASE_PYTHON"]).absolute()
        return subprocess.run([python, *arguments], cwd=self.folder, env=environment, capture_output=True, text=True)

    def __call__(self, module: str, *arguments: str) -> str:
        """What a command that must succeed prints."""
        done = self.python("-m", module, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Outside:
    return Outside(tmp_path_factory.mktemp("outside"))


@pytest.fixture(scope="module")
def results(outside: Outside) -> Path:
    """Two methods and a sweep on the toy, and one method on OGBench's data that were made for it."""
    outside("harness.run", *TINY, "--methods", "vgf,best_of_n", "--set", "behavior_steps=10")
    outside("harness.run", *TINY, "--methods", "iql", "--sweep", "iql.alpha=3,10")
    outside("harness.run", *TINY, "--methods", "bc", "--tasks", CUBE, "--data", "generate", "--data-episodes", "3")
    return outside.folder / "results"


def test_it_is_the_wheel_and_there_is_no_extra(outside: Outside) -> None:
    where = outside.python("-c", "import core; print(core.__path__[0])").stdout
    assert Path(where.strip()).parent.name == "site-packages"
    for package in ("torch", "transformers", "stable_baselines3", "trl", "pytest"):
        assert f"No module named '{package}'" in outside.python("-c", f"import {package}").stderr


def test_what_there_is_is_listed(outside: Outside) -> None:
    said = outside("harness.run", "--list")
    assert all(f"suite {name}" in said for name in tasks.SUITES)
    assert "SFT: supervised fine-tuning on references" in said  # read from a file that cannot be imported here


def test_settings_are_shown_with_their_sources(outside: Outside) -> None:
    assert "batch_size" in outside("harness.run", "--show-config", "vgf", "toy")
    assert "VGF paper, Table 4" in outside("harness.run", "--show-config", "vgf", CUBE)
    assert "to do" in outside("harness.run", "--dry-run", "--preset", "paper", "--methods", "vgf,fql", "--tasks", CUBE)


def test_the_toy_and_ogbench_are_trained_on(outside: Outside, results: Path) -> None:
    found = {path.relative_to(results / "runs").parts[:3] for path in (results / "runs").rglob("run.json")}
    assert found == {("toy", "toy", "vgf"), ("toy", "toy", "best_of_n"), ("toy", "toy", "iql"), ("ogbench", CUBE, "bc")}
    before = {path: path.read_bytes() for path in results.rglob("run.json")}
    outside("harness.run", *TINY, "--methods", "vgf,best_of_n", "--set", "behavior_steps=10")
    assert {path: path.read_bytes() for path in results.rglob("run.json")} == before  # finished: nothing is redone


def test_analysis_reads_what_was_recorded(outside: Outside, results: Path) -> None:
    said = outside("analysis.tables", "results")
    assert "vgf" in said and "best_of_n" in said and "bc" in said
    outside("analysis.tables", "results", "--paper", "all")
    for table, printed in (("table1", "47.4 ± 0.2"), ("table2", "72 ± 1"), ("table3", "57.3"), ("table7", "27 ± 22")):
        assert printed in (results / f"tables/paper/{table}.md").read_text()  # what papers report is in the wheel
    outside("analysis.plots", "results")
    assert list((results / "figures").rglob("*.png"))
    assert "vgf" in outside("analysis.stats", "results", "--compare", "vgf,best_of_n")
    assert "alpha" in outside("analysis.tune", "results", "--rule", "heldout-seeds")
    outside("analysis.report", "results", "--out", "report")
    assert (outside.folder / "report/index.html").stat().st_size > 10_000


@pytest.mark.parametrize("suite", LANGUAGE)
def test_a_language_suite_says_which_extra_is_missing(outside: Outside, suite: str) -> None:
    for arguments in (("--preset", "smoke"), ("--dry-run",), ("--preset", "smoke", "--methods", "sft")):
        done = outside.python("-m", "harness.run", "--suite", suite, *arguments, "--results", "language")
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ") and line.endswith("pip install 'vgf-bench[rlhf]'")
    assert not (outside.folder / "language").exists()


def test_collecting_says_which_extra_is_missing(outside: Outside) -> None:
    done = outside.python("-m", "tasks.collect", "d4rl/hopper-medium")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("pip install 'vgf-bench[collect]'"), done.stderr
