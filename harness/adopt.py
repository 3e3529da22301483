"""A lane's parts given by hand: the folder of an artefact, taken into the results if it is what the plan would make."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core import records
from core.errors import reason
from core.files import digest, draft, write_json
from harness import provenance, record
from harness.engines import engine_of
from harness.plan import Lane, RunNode
from harness.store import Artifact, LaneStore
from methods.core import BadInput


class Adopted:
    """The folder of a finished lane, as `results/artifacts/<fingerprint>/` is one."""

    def __init__(self, folder: Path) -> None:
        """Raises `BadInput` where the folder holds no finished lane, or a damaged one."""
        self.folder = folder
        try:
            self.note = records.read(folder / "stage.json", records.StageRecord)
        except FileNotFoundError:
            raise BadInput(f"--adopt {folder}: holds no artefact (no stage.json)") from None
        except OSError as error:
            raise BadInput(f"--adopt {folder}: holds no artefact ({reason(error)})") from None
        except BadInput as error:
            raise BadInput(f"--adopt {folder}: holds no artefact ({error})") from None
        self.identity: Mapping[str, Any] = self.note["identity"]
        step = self.note["step"]
        if "seeds" in self.identity:
            raise BadInput(f"--adopt {folder}: all seeds are in one there, as older versions stored them")
        if not self.note["finished"] or self.identity.get("steps", step) != step:
            raise BadInput(f"--adopt {folder}: its stage is unfinished (step {step})")
        self.name = f"{step}.safetensors"
        try:
            Artifact(folder, self.identity).verify(self.name)
        except BadInput as error:
            raise BadInput(f"--adopt {folder}: {error}") from None

    def check(self, runs: Sequence[RunNode], *, data_known: bool = True) -> Lane | None:
        """The lane of the plan that this is; None if the plan has it for another task.

        Raises:
          BadInput: it is none of them; says what differs from the nearest. With `data_known` false, differences that
            hang on the data are left for later.
        """
        lanes = {lane.fingerprint: lane for run in runs for trial in run.trials() for lane in trial.lanes()}.values()
        kin = [lane for lane in lanes if all(self._has(lane, key) for key in ("stage", "trains", "task"))]
        if not kin:
            if data_known and any(self.identity.get("task") != lane.identity["task"] for lane in lanes):
                return None
            raise BadInput(f"--adopt {self.folder}: it is stage {self.identity.get('stage')!r} of "
                           f"{self.identity.get('task')}, which the plan does not have")  # fmt: skip
        hidden = () if data_known else ("data", "reads")
        differing = {lane.fingerprint: self._differences(lane, hidden) for lane in kin}
        nearest = min(kin, key=lambda lane: len(differing[lane.fingerprint]))
        if differing[nearest.fingerprint]:
            (name, there, here), *others = differing[nearest.fingerprint]
            more = f"; also different: {', '.join(other for other, _, _ in others)}" if others else ""
            raise BadInput(f"--adopt {self.folder}: {name} is {_short(there)} there and {_short(here)} in the plan "
                           f"(stage {nearest.node.stage.name}){more}")  # fmt: skip
        return nearest

    def take(self, lane: Lane, folder: Path, *, anew: bool = False) -> Path:
        """Copies the artefact to `folder`, where the plan's lane is kept; a finished one there stays, unless `anew`.

        Returns:
          `folder`.

        Raises:
          BadInput: another process is writing there, or something changed on the way.
        """
        if folder.resolve() == self.folder.resolve():
            return folder
        try:
            with record.locked(folder):
                there = LaneStore(folder, lane.identity, engine_of(lane.task.suite).form)
                there.tidy()
                if anew or not there.finished:
                    self._copy(there)
        except record.Busy as busy:
            raise BadInput(f"--adopt {self.folder}: {busy}") from None
        return folder

    def _copy(self, there: LaneStore) -> None:
        for name in ("stage.json", "train.csv"):  # of an attempt that this takes the place of
            (there.folder / name).unlink(missing_ok=True)
        shutil.rmtree(there.state, ignore_errors=True)
        sha256 = self.note.get("files", {})[self.name]
        with draft(there.state / self.name) as temporary:
            shutil.copyfile(self.folder / "state" / self.name, temporary)
            if digest(temporary) != sha256:
                raise BadInput(f"--adopt {self.folder}: it changed while it was copied")
        # a state that no note names counts for nothing
        write_json(there.folder / "stage.json", {
            **self.note, "files": {self.name: sha256}, "adopted_from": str(self.folder.resolve())})  # fmt: skip

    def difference(self) -> str | None:
        """How the code that trained it differs from this code."""
        return provenance.difference(self.note)

    def _has(self, lane: Lane, key: str) -> bool:
        return bool(self.identity.get(key) == lane.identity[key])

    def _differences(self, lane: Lane, hidden: Sequence[str]) -> list[tuple[str, Any, Any]]:
        there, here = _flat(self.identity), _flat(json.loads(json.dumps(dict(lane.identity))))
        names = [name for name in {**there, **here} if name.split(".")[0] not in hidden]
        return [(name, there.get(name), here.get(name)) for name in names if there.get(name) != here.get(name)]


def _short(value: Any) -> str:
    """Of what a stranger's note may hold, as much as a line takes."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity with its nested settings as "config.steps"."""
    flat: dict[str, Any] = {}
    for key, value in identity.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat
