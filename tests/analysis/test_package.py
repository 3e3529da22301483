"""What the commands read beside the records is part of the packages: they work where only a wheel is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages

from tests.analysis.synthetic import write_run

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def data_files() -> set[Path]:
    """Every file in our packages that is no Python, and no left-over of running them."""
    tops = {
        name.partition(".")[0] for name in find_packages(str(ROOT), include=SETTINGS["packages"]["find"]["include"])
    }
    found = {path for top in tops for path in (ROOT / top).rglob("*") if path.is_file()}
    return {path for path in found if path.suffix not in (".py", ".pyc")}


def test_every_data_file_is_in_the_wheel() -> None:
    patterns = SETTINGS["package-data"]
    packed = {path for package, globs in patterns.items() for glob in globs for path in (ROOT / package).glob(glob)}
    assert (ROOT / "analysis/publications/table2_ogbench.csv") in packed
    assert data_files() - packed == set()


@pytest.mark.slow
def test_the_wheel_reports_and_compares_elsewhere(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "tests", "results", "build", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", str(source), *offline, "-w", str(tmp_path)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", str(wheel), *offline, "--target", str(tmp_path / "site")], check=True)
    shutil.rmtree(source)
    write_run(tmp_path / "results", "fql", "ogbench", "cube-single-play-singletask-task2-v0", episodes=4, evaluations=1)
    here = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    for module, wanted in (
        ("analysis.report", "report/index.html"),
        ("analysis.tables", "results/tables/paper/table2.md"),
    ):
        more = ["--paper", "table2"] if module == "analysis.tables" else []
        done = subprocess.run(
            [sys.executable, "-m", module, "results", *more], cwd=tmp_path, env=here, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / wanted).stat().st_size > 1000
