"""Parts of language stages on disk: safetensors with a line of JSON in their header, a file a part and seed.

    results/artifacts/<fingerprint>/stage.json
                                   /train.csv
                                   /state/<steps>/<part>-<seed>.safetensors
                                   /state/unfinished-<seed>.safetensors     what an unfinished seed goes on from

Every file is written beside its place and renamed, so a crash leaves the old one or the new one whole.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from harness.plan import StageNode
from harness.record import git_state, read_stage, versions, write_atomically, write_json
from methods.core import BadInput
from methods.language.core import Part


def write_part(path: Path, part: Part) -> None:
    """Atomically; when it returns, it is on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(part.tensors, temporary, metadata={"about": json.dumps(part.about)})
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_part(path: Path) -> Part:
    """Raises `BadInput`: it is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
        return Part(load_file(path), about)
    except (OSError, SafetensorError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(f"{path}: the stored part cannot be read ({reason}); use --fresh") from error


class PartStore:
    """What one stage made, seed by seed."""

    def __init__(self, folder: Path, node: StageNode, maker: str) -> None:
        """`maker`: the run that carries the stage out, where it is not done."""
        self.folder, self.node, self.maker = folder, node, maker
        self.identity = json.loads(json.dumps(node.identity))

    def __enter__(self) -> PartStore:
        for left in self.folder.glob("state/**/.*.tmp"):  # of a process that was killed
            left.unlink(missing_ok=True)
        for seed in filter(self.has, self._seeds()):  # one that was killed between keeping a seed and clearing up
            self._unfinished(seed).unlink(missing_ok=True)
        return self

    def __exit__(self, *exception: object) -> None:
        del exception

    def path(self, part: str, seed: int) -> Path:
        return self.folder / "state" / str(self.node.stage.steps) / f"{part}-{seed}.safetensors"

    def has(self, seed: int) -> bool:
        """Whether the seed's work is done."""
        return all(self.path(part, seed).exists() for part in self.node.stage.trains)

    def read(self, part: str, seed: int) -> Part:
        """Raises `BadInput`: see `read_part`."""
        return read_part(self.path(part, seed))

    def keep(self, seed: int, parts: Mapping[str, Part], seconds: float) -> None:
        """A seed's finished parts, and the seconds since the last save."""
        for name, part in parts.items():
            write_part(self.path(name, seed), part)
        self._unfinished(seed).unlink(missing_ok=True)
        self._note(finished=False, seconds=seconds)

    # unfinished seeds

    def _unfinished(self, seed: int) -> Path:
        return self.folder / "state" / f"unfinished-{seed}.safetensors"

    def pause(self, seed: int, step: int, kept: Part, seconds: float) -> None:
        """What to go on from after `step`."""
        write_part(self._unfinished(seed), Part(kept.tensors, {"step": step, **kept.about}))
        self._note(finished=False, seconds=seconds)

    def paused(self, seed: int) -> tuple[int, Part] | None:
        """(step, what was kept), if the seed was begun."""
        path = self._unfinished(seed)
        if not path.exists():
            return None
        part = read_part(path)
        return int(part.about["step"]), part

    # the log

    def log(self) -> list[dict[str, str]]:
        """Rows of train.csv."""
        path = self.folder / "train.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    def write_log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """All of them anew: they are few."""
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        table = csv.DictWriter(text, names, restval="nan", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_atomically(self.folder / "train.csv", lambda file: file.write(text.getvalue().encode()))

    # as `harness.watch.Store`

    @property
    def finished(self) -> bool:
        """Whether every seed is done, and its parts are there."""
        return bool(read_stage(self.folder).get("finished")) and all(map(self.has, self._seeds()))

    @property
    def adopted(self) -> bool:
        return "adopted_from" in read_stage(self.folder)

    @property
    def step(self) -> int:
        return self.node.stage.steps if self.finished else 0

    def finish(self) -> None:
        """Notes that every seed is done."""
        self._note(finished=True, seconds=0.0)

    def provenance(self, asker: str) -> dict[str, Any]:
        """As `harness.checkpoint.StageStore.provenance`."""
        note = read_stage(self.folder)
        trained = note.get("maker") == asker
        origin = "adopted" if self.adopted else "trained" if trained else "shared"
        return {"origin": origin, **{key: note.get(key) for key in ("seconds", "git", "versions")}}

    def _seeds(self) -> Iterable[int]:
        return self.node.identity["seeds"]

    def _note(self, *, finished: bool, seconds: float) -> None:
        total = read_stage(self.folder).get("seconds", 0.0) + seconds
        write_json(self.folder / "stage.json", {
            "finished": finished, "step": self.node.stage.steps, "seconds": round(total, 3), "maker": self.maker,
            "git": git_state(), "versions": versions(), "identity": self.identity})  # fmt: skip
