"""docs/tutorial.md, carried out in a copy of the sources: every command in its order, and the files that it names.

`pytest -s -m slow tests/test_tutorial.py` prints how long each command took, which is where the page's times are from.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/tutorial.md").read_text()
SOURCES = ("core", "methods", "harness", "tasks", "analysis", "tests", "results/measured", "pyproject.toml")
OURS = ("PYTEST", "PYTHONPATH", "JAX_DISABLE", "JAX_COMPILATION", "XLA_FLAGS")
"""Variables of the tests, which no user has."""
FOLDERS = ("results", "verdict")
"""What the page's commands write into."""


class Block(NamedTuple):
    kind: str
    text: str


BLOCKS = [Block(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)]


def outputs() -> set[str]:
    """The paths in the prose that lie in those folders; * stands for a fingerprint."""
    return {path for path in re.findall(r"`([\w./*-]+)`", PAGE) if path.split("/")[0] in FOLDERS and "/" in path}


def write(source: str, line: str, tree: Path) -> None:
    """The method's file and its line, where the page says."""
    (name,) = re.findall(r"^Write `(methods/\w+\.py)`:$", PAGE, re.MULTILINE)
    (tree / name).write_text(source)
    registry = tree / "methods/__init__.py"
    head = "REGISTRY: dict[str, str] = {\n"
    text = registry.read_text()
    assert text.count(head) == 1
    registry.write_text(text.replace(head, head + line))


def test_the_page_has_what_it_promises() -> None:
    kinds = [block.kind for block in BLOCKS]
    assert kinds[0] == "console" and kinds.count("console") == 1  # set-up, the only commands that are not run here
    assert kinds.count("python") == 2 and kinds.count("sh") > 8 and {*kinds} <= {"console", "python", "sh", "text"}
    assert len(outputs()) > 5


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_its_commands_run_and_write_what_it_names(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    for name in SOURCES:
        copy = shutil.copy if (ROOT / name).is_file() else lambda *paths: shutil.copytree(*paths, ignore=ignored)
        copy(ROOT / name, tmp_path / name)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])

    python = [block.text for block in BLOCKS if block.kind == "python"]
    for block in BLOCKS:
        if block.text == python[-1]:
            write(*python, tmp_path)
        if block.kind != "sh":
            continue
        began, spent = time.monotonic(), cpu()
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", block.text], cwd=tmp_path, env=environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        seconds = f"{time.monotonic() - began:.0f} s, {cpu() - spent:.0f} CPU s"
        print(f"--- {seconds}: {block.text}{done.stdout}", flush=True)
        assert done.returncode == 0, block.text + done.stdout
    for path in sorted(outputs()):
        assert list(tmp_path.glob(path)), path


def cpu() -> float:
    """Processor seconds of the commands that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
