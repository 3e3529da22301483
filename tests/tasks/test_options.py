"""Options of tasks: homes, nothing for something, sizes that nothing holds; names that steer a terminal."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from core import memory
from methods.core import BadInput
from tasks import check, fetch, judge, screen, sizes, throughput
from tasks.collect import app as collecting
from tasks.d4rl import agent as d4rl_agent
from tasks.data import download
from tasks.minari import tasks as minari_tasks
from tasks.ogbench import collect
from tasks.ogbench import suite as ogbench
from tests.tasks.conftest import command

CUBE = "cube-single-play-v0"
pytestmark = pytest.mark.usefixtures("d4rl_folders")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder and a home that are empty."""
    (home := tmp_path / "home").mkdir()
    (here := tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("OGBENCH_DATA_DIR", str(tmp_path / "ogbench"))
    monkeypatch.setattr(sizes, "host_memory", lambda: 64e9)  # a larger machine must not be asked to try
    monkeypatch.chdir(here)
    return home


@pytest.mark.parametrize(("app", "arguments", "line"), [
    (check.app, "toy|--tasks|,", "--tasks ',' names no task"),
    (check.app, "toy|--tasks|", "--tasks: is empty"),
    (check.app, "toy|--data|", "--data: is empty"),
    (fetch.app, "ogbench|--tasks|,", "--tasks ',' names no task"),
    (fetch.app, "ogbench|--data|", "--data: is empty"),
    (fetch.app, "ogbench|--episodes|1000000000000", "--episodes must be at most 2147483647, not 1000000000000"),
    (throughput.app, "--tasks| , ", "--tasks ' , ' names no task"),
    (throughput.app, "--out|", "Invalid value for '--out': is empty; the current folder is '.'"),
    (throughput.app, "--rows|10000000000", "--rows must be at most 2147483647, not 10000000000"),
    (throughput.app, "--rows|2000000000", "--rows 2000000000: so many simulators take at least 1 PB of memory, and "
     "there is 64 GB"),
    (judge.app, "", "Invalid value for 'runs': is empty; the current folder is '.'"),
    (judge.app, "x|--cache|", "Invalid value for '--cache': is empty; the current folder is '.'"),
    (collecting, CUBE + "|--out|", "Invalid value for '--out': is empty; the current folder is '.'"),
    (collecting, CUBE + "|--out|x.npz|--episodes|1000000000", "1000000000 episodes of 1001 states take at least 280 "
     "TB of memory, and there is 64 GB"),
    (collecting, CUBE + "|--out|x.npz|--steps|1000000000000", "steps must be at most 2147483647, not 1000000000000"),
    (collecting, CUBE + "|--out|x.npz|--episodes|1" + "0" * 400, "episodes must be at most 2147483647, not 1000"),
    (collecting, CUBE + "|--out|x.npz|--workers|100000", "workers must be at most "),
    (collecting, "d4rl/hopper-medium|--transitions|2000000000", "--transitions 2000000000: they take at least 120 GB"),
    (collecting, "d4rl/hopper-medium|--training-steps|2000000000", "--training-steps 2000000000: they take at least "),
    (collecting, "d4rl/hopper-medium|--seed|1000000000000", "--seed must be at most 2147483647, not 1000000000000"),
])  # fmt: skip
def test_what_has_no_meaning_or_no_place_is_refused(app: Any, arguments: str, line: str, tmp_path: Path) -> None:
    if "d4rl/" in arguments:
        pytest.importorskip("stable_baselines3")
    before = sorted(tmp_path.rglob("*"))
    done = command(app, *arguments.split("|"))
    assert done.exit_code == 2 and done.stderr.startswith(f"error: {line}"), done
    assert done.stderr.count("\n") == 1 and sorted(tmp_path.rglob("*")) == before


def test_data_that_no_disk_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1e6}))
    line = "5 episodes of 1001 states take at least 1.4 MB of disk space, and 1 MB are free"
    with pytest.raises(BadInput, match=line):
        collect.collect(CUBE, 5, 0, 1, tmp_path / "new" / "x.npz", progress=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_file_in_the_home_is_made_there(elsewhere: Path) -> None:
    done = command(collecting, CUBE, "--out=~/x.npz", "--episodes=1", "--steps=3", "--workers=1")
    assert done.exit_code == 0, done
    assert {"x.npz", "x-val.npz"} <= {path.name for path in elsewhere.iterdir()} and not any(Path.cwd().iterdir())
    state = {name: values[0].nbytes for name, values in np.load(elsewhere / "x.npz").items() if values.ndim}
    assert sum(state.values()) >= collect.STATE


def test_a_table_in_the_home_is_written_there(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = throughput.Measurement("made", 2, 1.0, 2.0, throughput.Memory(9.0, 1.5))
    monkeypatch.setattr(throughput, "measure", lambda *arguments: found)
    assert command(throughput.app, "--tasks", "hopper-medium-v2", "--rows", "2", "--out=~/x.csv").exit_code == 0
    assert (elsewhere / "x.csv").exists() and not any(Path.cwd().iterdir())


def test_simulators_without_memory_are_not_data_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(throughput, "measure", full)
    done = command(throughput.app, "--tasks", "hopper-medium-v2", "--rows", "7")
    assert (done.exit_code, "error: hopper-medium-v2: out of memory stepping 7 simulators\n" in done.stderr) == (
        2,
        True,
    )


def test_what_a_folder_is_called_is_shown_and_steers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of every line that tasks say; brackets and colons mean nothing."""
    folder = tmp_path / "a\x1b[31mX[x]:smile:"
    monkeypatch.setenv("OGBENCH_DATA_DIR", str(folder))
    monkeypatch.setattr(ogbench.download, "fetch", functools.partial(_nowhere, str(folder)))
    monkeypatch.setattr(collect, "collect", lambda *arguments: None)
    ogbench.get("cube-single-play-singletask-v0")._file("auto")
    screen.say_once(f"once {folder}")
    said = capsys.readouterr().err
    assert said.count("a\\x1b[31mX[x]:smile:") == 2 and "\x1b" not in said


def _nowhere(folder: str, *arguments: Any, **more: Any) -> None:
    raise download.MissingDownload(f"missing download for {folder}")


def test_a_damaged_buffer_is_one_line(tmp_path: Path) -> None:
    agent = object.__new__(d4rl_agent.Agent)
    agent.place = tmp_path
    agent.recipe = d4rl_agent.Recipe("hopper", 0, 4, 4, *[0] * 2, *[0.0] * 2, *[""] * 4)
    (tmp_path / "buffer.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(BadInput, match=r"buffer\.npz cannot be read \(.*delete the folder to train anew"):
        agent.seen(4)


def test_a_simulator_of_images_is_refused_by_name() -> None:
    env: Any = gymnasium.Env()
    env.observation_space = gymnasium.spaces.Dict(image=gymnasium.spaces.Box(0, 1, (2, 2)))
    with pytest.raises(BadInput, match=r"^own/images-v0: its simulator observes image; only vectors"):
        minari_tasks._Flat(env, "own/images-v0")


def test_the_bound_on_workers_leaves_room() -> None:
    sizes.check_workers("--workers", 16)
    assert memory.amount(64e9) == "64 GB"
