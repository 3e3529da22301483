"""Nothing that is empty is taken for something, and "~" is a home."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from core import options
from core.errors import BadInput


def test_parts_are_different_and_in_order() -> None:
    assert options.parts("--tasks", " b, a,,b ", "task") == ["b", "a"]


@pytest.mark.parametrize(("text", "line"), [("", "--tasks: is empty"), (" ", "--tasks: is empty"),
                                            (" , ", "--tasks ' , ' names no task")])  # fmt: skip
def test_no_parts_are_refused(text: str, line: str) -> None:
    with pytest.raises(BadInput) as refusal:
        options.parts("--tasks", text, "task")
    assert str(refusal.value) == line


def test_a_home_is_spelled_out_and_nothing_is_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert options.path("~/x") == Path("/somewhere/x")
    for text, line in (("", "is empty"), (" ", "is empty"), ("~nobody-here/x", "no home directory is known")):
        with pytest.raises(typer.BadParameter, match=line):
            options.path(text)
