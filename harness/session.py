"""What everything that one command carries out shares."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from core.files import read_plain, write_lines
from harness.ending import Stop
from harness.plan import Lane
from harness.progress import Progress
from harness.record import now
from harness.storage import LocalStorage, Storage
from harness.track import Tracking
from tasks.core import Dataset, RewardTransform

_FAILED = "failed"  # a file in a lane's folder: when, and of what


@dataclass
class Session:
    """Where records go, who is told, and what is held in memory for all."""

    results: Path
    progress: Progress
    stop: Stop = field(default_factory=Stop)
    failed: dict[str, str] = field(default_factory=dict)
    """Lanes that failed in this session, by fingerprint, and why."""
    storage: Storage = field(default_factory=LocalStorage)
    """Where results stay."""
    tracking: Tracking = field(default_factory=Tracking)
    """Who is told of what runs log."""
    lost: bool = False
    """Whether some of the work is another process's by now, so that nothing may be saved any more."""
    shared: dict[Any, Any] = field(default_factory=dict)
    """What engines keep: compiled programs, texts in tokens."""
    _columns: dict[Any, Any] = field(default_factory=dict)  # of `_dataset`, on the device; rewards by transform, too
    _dataset: Dataset | None = None
    _loading: Lock = field(default_factory=Lock)

    def publish(self, folders: Iterable[Path]) -> None:
        """Folders of lanes and seeds, to where results stay. Raises: Unreachable."""
        if not self.lost:
            self.storage.publish(folders)

    def artifact(self, fingerprint: str) -> Path:
        return self.results / "artifacts" / fingerprint

    def fail(self, lane: Lane, why: str) -> None:
        """Notes it, also in the lane's folder, for processes beside this one."""
        line = self.failed.setdefault(lane.fingerprint, f"{lane.node.stage.name} failed: {why}")
        with contextlib.suppress(OSError):
            write_lines(self.artifact(lane.fingerprint) / _FAILED, [now(), line])

    def failure(self, lane: Lane) -> tuple[str, str]:
        """When a lane failed last (UTC, ISO 8601), in whichever process, and of what; ("", "") where it has not."""
        try:
            when, why = read_plain(self.artifact(lane.fingerprint) / _FAILED).decode().split("\n", 1)
        except (OSError, ValueError):
            return "", ""
        return when, why.strip()

    def give_up(self, name: str) -> None:
        """For a claim that is no longer this process's: nothing more is saved, and it stops."""
        self.progress.say(f"lane {name}: its claim could not be renewed in time, so that another process may take it; "
                          "stopping")  # fmt: skip
        self.lost = True
        self.stop.wish()

    def why_not(self, lanes: Iterable[Lane]) -> str | None:
        """Which of these lanes failed, and of what; of one that another took with it, that one."""
        return next((self.failed[lane.fingerprint] for lane in lanes if lane.fingerprint in self.failed), None)

    def columns(
        self, dataset: Dataset, fields: frozenset[str], to_device: Callable[..., Any], reward: RewardTransform,
        masks: str = "task",
    ) -> dict[str, Any]:  # fmt: skip
        """The dataset's columns on the device, where all programs use the same copy; of rewards there is one for every
        transform that is asked for, and of `masks` one for each of what may stop the bootstrap."""
        with self._loading:
            if dataset is not self._dataset:
                self._dataset, self._columns = dataset, {}
            missing = fields - self._columns.keys()
            self._columns |= to_device(dataset.columns(fields), missing)
            found = {name: self._columns[name] for name in fields}
            if "rewards" in fields and reward != dataset.reward:
                if reward not in self._columns:
                    made = to_device({"rewards": dataset.rewards(reward)}, fields)
                    self._columns[reward] = made["rewards"]
                found["rewards"] = self._columns[reward]
            if "masks" in fields and masks == "trajectory":
                if masks not in self._columns:
                    ends = to_device({"masks": 1.0 - dataset.transitions["terminals"]}, fields)
                    self._columns[masks] = ends["masks"]
                found["masks"] = self._columns[masks]
            return found

    def forget(self) -> None:
        """Lets go of the columns on the device, and of the dataset that they are of."""
        with self._loading:
            self._dataset, self._columns = None, {}

    def kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """What was made for `key` before, or is made now."""
        with self._loading:
            if key not in self.shared:
                self.shared[key] = make()
            return self.shared[key]


def seeds_text(seeds: Mapping[int, Any] | list[int]) -> str:
    """Seeds as a person writes them: "seed 3", "seeds 0-4, 7"."""
    numbers, spans = sorted(seeds), list[list[int]]()
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
    return f"seed{'s' * (len(numbers) > 1)} {text}"
