"""What is seen of long work where there is no terminal, and a stop before the first step."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import harness.progress
from harness.ending import Interrupted
from harness.progress import Progress
from harness.training import Training


def told(monkeypatch: pytest.MonkeyPatch, seconds: list[float], *, terminal: bool = False) -> list[str]:
    """Lines about ten pieces of work of which each ends at one of `seconds`."""
    clock = iter([0.0, *seconds])
    monkeypatch.setattr(harness.progress.time, "monotonic", lambda: next(clock, seconds[-1]))
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200)
    progress = Progress(console)
    with progress.stage("vgf on cube: critic, 3 lanes", 10, 0) as bar:
        for _ in seconds:
            bar.advance(1)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_file_hears_of_long_work_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = told(monkeypatch, [100.0 * (i + 1) for i in range(10)])
    assert len(lines) == 3 and lines[0].startswith("vgf on cube: critic, 3 lanes: 30%")


def test_short_work_and_a_terminal_hear_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, [float(i) for i in range(10)]) == []
    assert told(monkeypatch, [1000.0 * (i + 1) for i in range(10)], terminal=True) == []


def test_the_time_left_is_told_once_it_is_known() -> None:
    progress = Progress(Console(file=io.StringIO(), width=200))
    with progress.stage("work", 100, 0) as bar:
        for _ in range(5):
            bar.advance(10)
        bar._told = -1e9
        bar.advance(10)
    assert isinstance(progress.console.file, io.StringIO)
    assert progress.console.file.getvalue().startswith("work: 60%, 0:00:0")


def test_a_look_at_all_rows_can_be_stopped() -> None:
    """A bank of proposals of a large dataset takes long, and nothing is lost that could be kept."""
    training: Any = object.__new__(Training)
    training.data, training._label = {"observations": range(5)}, lambda: "vgf"
    training.session = SimpleNamespace(stop=lambda: True, progress=Progress(Console(file=io.StringIO())))
    training.stage = SimpleNamespace(prepare=lambda *given: {})
    with pytest.raises(Interrupted), training._looking() as watch:
        watch(1)
    training.session.stop = lambda: False
    with training._looking() as watch:
        watch(1)
