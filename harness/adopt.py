"""A part offered by hand: an artefact's folder, taken into the results if it is what the plan would make."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core import records
from core.errors import reason
from core.files import digests, draft_folder, write_json
from harness import record
from harness.artifact import Artifact
from harness.plan import RunNode, StageNode
from methods.core import BadInput


class Offer:
    """The folder of a finished stage, as `results/artifacts/<fingerprint>/` is one."""

    def __init__(self, folder: Path) -> None:
        """Raises `BadInput` where the folder holds no finished stage, or a damaged one."""
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
        if not self.note["finished"] or self.identity.get("steps", step) != step:
            raise BadInput(f"--adopt {folder}: its stage is unfinished (step {step})")
        if not (folder / "state" / str(step)).is_dir():
            raise BadInput(f"--adopt {folder}: its parts are missing (no state/{step})")
        self.files = self._verified(folder / "state")

    def _verified(self, state: Path) -> dict[str, str]:
        """Digests of what is in `state`.

        Raises:
          BadInput: it is not what was stored, or there are links, pipes and the like, which are not copied.
        """
        noted = self.note.get("files", {})
        try:
            found = digests(state)
        except OSError as error:
            raise BadInput(f"--adopt {self.folder}: {reason(error)}") from None
        if missing := sorted(noted.keys() - found.keys()):
            raise BadInput(f"--adopt {self.folder}: state/{missing[0]} is missing")
        if damaged := sorted(name for name in noted if found[name] != noted[name]):
            raise BadInput(f"--adopt {self.folder}: state/{damaged[0]} is damaged (its SHA-256 is not the stored one)")
        return found

    def check(self, runs: Sequence[RunNode], *, data_known: bool = True) -> StageNode | None:
        """The stage of the plan that this is; None if the plan has it for another task.

        Raises:
          BadInput: it is none of them; says what differs from the nearest. With `data_known` false, differences that
            hang on the data are left for later.
        """
        nodes = {node.fingerprint: node for run in runs for node in run.nodes}.values()
        kin = [node for node in nodes if all(self._has(node, key) for key in ("stage", "trains", "task"))]
        if not kin:
            if data_known and any(self.identity.get("task") != node.identity["task"] for node in nodes):
                return None
            raise BadInput(f"--adopt {self.folder}: it is stage {self.identity.get('stage')!r} of "
                           f"{self.identity.get('task')}, which the plan does not have")  # fmt: skip
        hidden = () if data_known else ("data", "reads")
        differing = {node.fingerprint: self._differences(node, hidden) for node in kin}
        nearest = min(kin, key=lambda node: len(differing[node.fingerprint]))
        if differing[nearest.fingerprint]:
            (name, there, here), *others = differing[nearest.fingerprint]
            more = f"; also different: {', '.join(other for other, _, _ in others)}" if others else ""
            raise BadInput(f"--adopt {self.folder}: {name} is {_short(there)} there and {_short(here)} in the plan "
                           f"(stage {nearest.stage.name}){more}")  # fmt: skip
        return nearest

    def take(self, folder: Path, *, anew: bool = False) -> Path:
        """Copies the artefact to `folder`, where the plan's stage is kept; a finished one there stays, unless `anew`.

        Returns:
          `folder`.

        Raises:
          BadInput: another process is writing there.
        """
        if folder.resolve() == self.folder.resolve():
            return folder
        try:
            with record.locked(folder):
                there = Artifact(folder, self.identity)
                there.sweep()
                note = None if anew else there.note
                if not (note and note["finished"] and (there.state / str(note["step"])).is_dir()):
                    self._copy(folder)
        except record.Busy as busy:
            raise BadInput(f"--adopt {self.folder}: {busy}") from None
        return folder

    def _copy(self, folder: Path) -> None:
        with draft_folder(folder / "state") as temporary:
            for name in self.files:
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / "state" / name, temporary / name)
            if digests(temporary) != self.files:
                raise BadInput(f"--adopt {self.folder}: it changed while it was copied")
            for name in ("stage.json", "train.csv"):  # of an attempt that this takes the place of
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / "state", ignore_errors=True)
            # the note first: without a state it counts for nothing, and a state without it would pass for the plan's
            write_json(folder / "stage.json", {**self.note, "adopted_from": str(self.folder.resolve())})

    def _has(self, node: StageNode, key: str) -> bool:
        return bool(self.identity.get(key) == node.identity[key])

    def _differences(self, node: StageNode, hidden: Sequence[str]) -> list[tuple[str, Any, Any]]:
        there, here = _flat(self.identity), _flat(json.loads(json.dumps(dict(node.identity))))
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
