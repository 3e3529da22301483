"""Memory is that of the container and of the limits, less what they use already."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from core import memory

ROOT = Path(__file__).parents[2]
V1, V2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")


@pytest.mark.parametrize(("below", "names", "own", "cached"), [
    ("", V2, "0::/", "inactive_file"),
    ("a/b", V2, "0::/a/b/c", "inactive_file"),
    ("memory/a", V1, "4:memory:/a\n0::/", "total_inactive_file"),
    ("memory", V1, "4:cpu,memory:/seen/outside/only", "total_inactive_file"),
])  # fmt: skip
def test_a_group_limits_what_is_left(
    below: str, names: tuple[str, str], own: str, cached: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "groups" / below
    folder.mkdir(parents=True)
    for name, text in zip((*names, "memory.stat"), ("9000000", "5000000", f"{cached} 1000000\nkernel 7"), strict=True):
        (folder / name).write_text(text)
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory, "_OWN", tmp_path / "own")
    assert (memory.host_memory(), memory.available_memory()) == (9e6, 5e6)
    (folder / names[0]).write_text("max\n")
    assert memory.host_memory() > 1e8


def test_a_limit_on_addresses_counts_what_is_taken() -> None:
    code = ("import resource; resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))\n"
            "from core.memory import available_memory; print(available_memory())")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert 0 < float(done.stdout) < 1e9
