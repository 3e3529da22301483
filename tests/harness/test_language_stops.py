"""Language lanes that are stopped within a step, saved by what that costs, and spread over devices."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
import torch
from transformers import GPTNeoXModel

from harness.devices import Devices
from harness.ending import Stop
from harness.language_lane import Log, Pace
from harness.store import LaneStore
from harness.tensors import TensorFormat
from tests.harness.command import invoke
from tests.harness.test_language import SUITE, lanes, run_of, table

PPO = ("--methods", "ppo", "--seeds", "1", "--set", "micro_batch=2", "--set", "ppo.epochs=2")


def go(results: Path, *arguments: str) -> Any:
    threads = torch.get_num_threads()
    try:
        return invoke(*SUITE, "--results", str(results), *arguments)
    finally:
        torch.set_num_threads(threads)


def stopping(monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """A wish to stop after so many passes of models; returns how many have been, and were after it."""
    seen = [0, 0]
    stops: list[Stop] = []
    listening, forward = Stop.listening, GPTNeoXModel.forward

    @contextlib.contextmanager
    def heard(self: Stop) -> Any:
        stops.append(self)
        with listening(self) as one:
            yield one

    def counted(self: Any, *arguments: Any, **settings: Any) -> Any:
        seen[1] += seen[0] >= at
        seen[0] += 1
        if seen[0] == at:
            stops[-1].asked = True
            stops[-1].wish()
        return forward(self, *arguments, **settings)

    monkeypatch.setattr(Stop, "listening", heard)
    monkeypatch.setattr(GPTNeoXModel, "forward", counted)
    return seen


def states(results: Path) -> dict[str, Any]:
    """What every lane of PPO's seed ended as, and its log."""
    found: dict[str, Any] = {}
    for lane in lanes(run_of(results, "ppo")):
        (path,) = (results / "artifacts" / lane / "state").iterdir()
        found[lane] = TensorFormat().read(path)
        log = path.parent.parent / "train.csv"
        found[lane + "/log"] = log.read_text() if log.is_file() else ""
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """PPO never stopped, and how many passes of models that took."""
    results = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        seen = stopping(patch, -1)
        done = go(results, *PPO)
    assert done.exit_code == 0, done.stderr
    return results, seen[0]


@pytest.mark.parametrize("share", [0.03, 0.2, 0.45, 0.6, 0.97])
def test_a_wish_to_stop_is_heeded_before_the_next_pass_and_nothing_is_different_after(
    share: float, whole: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In SFT, the reward model, PPO, and while responding: between micro-batches, and between tokens."""
    reference, passes = whole
    with monkeypatch.context() as patch:
        seen = stopping(patch, max(2, int(share * passes)))
        stopped = go(tmp_path, *PPO)
    assert stopped.exit_code == 130, stopped.stderr
    assert seen[1] == 0, "no pass after the wish"
    again = go(tmp_path, *PPO)
    assert again.exit_code == 0, again.stderr
    mine, theirs = states(tmp_path), states(reference)
    assert mine.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert mine[name] == expected if isinstance(expected, str) else TensorFormat().same(mine[name], expected), name
    assert table(run_of(tmp_path, "ppo")) == table(run_of(reference, "ppo"))


def test_what_was_whole_when_a_step_was_left_is_kept(whole: tuple[Path, int], tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """SFT's six steps of four micro-batches, left in the third micro-batch of the fourth step."""
    with monkeypatch.context() as patch:
        stopping(patch, 3 * 4 + 3)
        assert go(tmp_path, *PPO).exit_code == 130
    sft = lanes(run_of(whole[0], "ppo"))[0]
    store = LaneStore(tmp_path / "artifacts" / sft, {}, TensorFormat())
    assert store.note and (store.note["step"], store.note["finished"]) == (3, False)


def test_rows_of_the_log_are_means_whatever_was_left_between() -> None:
    whole, first = Log(0, 3), Log(0, 3)
    losses = [0.1, 0.7, 0.4, 0.9, 0.5]
    for step, loss in enumerate(losses, start=1):
        whole.add(step, {"sft/loss": loss}, last=step == 5)
    for step in (1, 2, 3, 4):
        first.add(step, {"sft/loss": losses[step - 1]}, last=False)
    second = Log(0, 3)
    second.restore([{name: str(value) for name, value in row.items()} for row in first.rows], first.part(), 4)
    second.add(5, {"sft/loss": losses[4]}, last=True)
    assert [row["step"] for row in whole.rows] == [3, 5] and whole.rows[0]["sft/loss"] == "0.4"
    assert [{n: str(v) for n, v in row.items()} for row in second.rows] == [
        {n: str(v) for n, v in row.items()} for row in whole.rows
    ]


def test_saves_take_a_bounded_share_of_the_time() -> None:
    """Each takes 30 s, or 10 ms."""
    for cost, expected in ((30.0, 6), (0.01, 60)):
        now = [0.0]
        pace, spent, saves = Pace(lambda now=now: now[0]), 0.0, 0  # type: ignore[misc]
        while now[0] < 3600:
            now[0] += 1.0
            if pace.due():
                with pace.saving():
                    now[0] += cost
                spent, saves = spent + cost, saves + 1
        assert saves == pytest.approx(expected, abs=1) and spent <= 0.06 * now[0]


def test_lanes_side_by_side_have_a_device_each() -> None:
    """Four GPUs, five lanes: none waits, and the fifth shares."""
    gpus, names, all_here = [torch.device("meta", i) for i in range(4)], list[str](), Barrier(5)
    devices = Devices(gpus)

    def lane() -> None:
        with devices.taken() as device:
            names.append(str(device))
            all_here.wait(timeout=10)

    threads = [Thread(target=lane) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names) == ["meta:0", "meta:0", "meta:1", "meta:2", "meta:3"]
    with devices.taken() as one, devices.taken() as other:
        assert (str(one), str(other)) == ("meta:0", "meta:1"), "given back"


def test_seeds_run_on_the_devices_they_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seeds at a time on two names of this machine's CPU."""
    used = set[str]()
    both = (torch.device("cpu"), torch.device("cpu", 0))
    taken = Devices.taken

    @contextlib.contextmanager
    def noted(self: Devices) -> Any:
        with taken(self) as device:
            used.add(str(device))
            time.sleep(0.05)
            yield device

    monkeypatch.setattr(Devices, "taken", noted)
    monkeypatch.setattr("harness.language.found_devices", lambda: both)
    done = go(tmp_path, "--methods", "sft", "--seeds", "2", "--jobs", "2", "--set", "measure_proxy=off")
    assert done.exit_code == 0, done.stderr
    assert used == {"cpu", "cpu:0"}
