"""Every command hands itself to `core.command.main` before it imports what takes long."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = [
    path for folder in ("analysis", "harness", "tasks") for path in sorted((ROOT / folder).rglob("*.py"))
    if '__name__ == "__main__"' in path.read_text()
]  # fmt: skip
LIGHT = {"__future__", "core.command"}


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_heavy_is_imported_before_the_command_starts(path: Path) -> None:
    body = ast.parse(path.read_text()).body
    start = next(number for number, node in enumerate(body) if isinstance(node, ast.If))
    before = [node for node in body[:start] if isinstance(node, ast.Import | ast.ImportFrom)]
    assert all(isinstance(node, ast.ImportFrom) and node.module in LIGHT for node in before)
