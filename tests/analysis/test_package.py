"""What the commands read beside the records is part of the packages (`tests/base_install.py` uses
them from a wheel)."""

from __future__ import annotations

import tomllib
from pathlib import Path

from setuptools import find_packages

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
