"""`--track tensorboard|wandb`: what runs log, also where people watch their experiments. The records stay what counts.

A seed of a run is one experiment there: its configuration, the rows of its train.csv and the means of its evaluations.
What goes wrong with tracking is said once and ends it; the runs go on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from core.errors import reason
from core.files import read_plain, write_json
from harness.table import read_rows

TRACKERS = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""What `--track` may name -> the package that it needs."""
FOLDER = "track"
MEANS = ("score", "return", "length", "success")
Values = Mapping[str, float]


class Experiment(Protocol):
    """One seed of a run, where it is watched."""

    def log(self, rows: Mapping[int, Values]) -> None:
        """Step -> values, all rows of training or all of evaluations; rows that stand there may be told again."""
        ...

    def end(self, status: str) -> None: ...


class Tracker(Protocol):
    """Where experiments are watched."""

    def begin(self, folder: Path, about: Mapping[str, Any]) -> Experiment:
        """The experiment of a seed. `folder`: its place below those of others; `about`: its run.json."""
        ...


class Tracking:
    """What a session tells of its runs, or nothing."""

    def __init__(self, tracker: Tracker | None = None, say: Callable[[str], None] = lambda line: None) -> None:
        self.tracker, self._say = tracker, say
        self._open: set[Watch] = set()

    def begin(self, results: Path, folder: Path, about: Mapping[str, Any], knobs: Sequence[str]) -> Watch:
        """A seed's experiment, with what its tables hold already. Raises: BadInput: a table is damaged."""
        watch = Watch(self, knobs)
        if self.tracker is not None:
            tables = [(name, read_rows(folder / f"{name}.csv")) for name in ("train", "episodes")]
            place = Path(results / FOLDER) / type(self.tracker).__name__.lower() / folder.relative_to(results / "runs")
            with self.guarded():
                watch.experiment = self.tracker.begin(place, about)
                self._open.add(watch)
                for name, table in tables:
                    rows = [dict(zip(table.header, row, strict=True)) for row in table.rows] if table else []
                    watch.learned(rows) if name == "train" else watch.evaluated(rows)
        return watch

    def close(self) -> None:
        """Ends what is still told of, as a session ends that leaves seeds to another."""
        for watch in list(self._open):
            watch.end("left")

    def ended(self, watch: Watch) -> None:
        self._open.discard(watch)

    def guarded(self) -> contextlib.AbstractContextManager[None]:
        return _Guard(self)

    def give_up(self, error: Exception) -> None:
        self.tracker = None
        self._say(f"--track: {reason(error)}; tracking ends here, the runs go on")


class _Guard(contextlib.AbstractContextManager[None]):
    def __init__(self, of: Tracking) -> None:
        self._of = of

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, Exception):
            return False
        self._of.give_up(error)
        return True


class Watch:
    """A seed's experiment, told in the rows of its tables; none while nobody watches."""

    def __init__(self, of: Tracking, knobs: Sequence[str] = ()) -> None:
        self._of, self._knobs = of, knobs
        self.experiment: Experiment | None = None

    def _now(self) -> Experiment | None:
        return self.experiment if self._of.tracker is not None else None

    def learned(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows of train.csv."""
        if experiment := self._now():
            with self._of.guarded():
                found = dict[int, Values]()
                for row in rows:
                    own = {name: value for name, value in row.items() if name not in ("seed", "step")}
                    found[int(row["step"])] = _known({f"train/{name}": float(value) for name, value in own.items()})
                experiment.log(found)

    def evaluated(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows of episodes.csv: their means by test-time setting."""
        if experiment := self._now():
            with self._of.guarded():
                experiment.log({step: _known(values) for step, values in means(rows, self._knobs).items()})

    def end(self, status: str) -> None:
        experiment, self.experiment = self._now(), None
        self._of.ended(self)
        if experiment:
            with self._of.guarded():
                experiment.end(status)


def means(rows: Iterable[Mapping[str, Any]], knobs: Sequence[str]) -> dict[int, dict[str, float]]:
    """Step -> "evaluate/score", or "evaluate/score/N_1_w_2" where there are knobs (TensorBoard's names have no other
    signs) -> the mean over episodes."""
    groups: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        setting = "_".join(f"{name}_{float(row[name]):g}" for name in knobs)
        for name in MEANS:
            if (value := row.get(name)) not in (None, ""):
                key = int(row["step"]), "/".join(filter(None, ("evaluate", name, setting)))
                groups.setdefault(key, []).append(float(value))
    found: dict[int, dict[str, float]] = {}
    for (step, name), values in sorted(groups.items()):
        found.setdefault(step, {})[name] = sum(values) / len(values)
    return found


def _known(values: Values) -> Values:
    return {name: value for name, value in values.items() if not math.isnan(value)}


class TensorBoard:
    """Event files under RESULTS/track/tensorboard; of a seed that goes on they are written anew from its tables."""

    def __init__(self) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter

    def begin(self, folder: Path, about: Mapping[str, Any]) -> Experiment:
        shutil.rmtree(folder, ignore_errors=True)
        writer = self._writer(logdir=str(folder))
        lines = [f"| {name} | {json.dumps(value)} |" for name, value in sorted(config_of(about).items())]
        writer.add_text("config", "\n".join(["| setting | value |", "|---|---|", *lines]), 0)
        return _Events(writer)


class _Events:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, rows: Mapping[int, Values]) -> None:
        for step, values in rows.items():
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def end(self, status: str) -> None:
        self._writer.add_text("status", status)
        self._writer.close()


class Wandb:
    """Runs of Weights & Biases, a group a run of ours. Without `WANDB_MODE` it is online where somebody is logged in,
    else offline: files under RESULTS/track/wandb, which `wandb sync` sends later."""

    def __init__(self) -> None:
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")
        self._wandb = wandb

    def begin(self, folder: Path, about: Mapping[str, Any]) -> Experiment:
        folder.mkdir(parents=True, exist_ok=True)
        logged_in = bool(os.environ.get("WANDB_MODE") or self._wandb.api.api_key)
        words = [str(about[name]) for name in ("suite", "task", "method")]
        identity = identity_of(about)
        run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "vgf-bench", name=f"{words[2]} {words[1]} seed {about['seed']}",
            id=identity, group="/".join([*words, str(about["fingerprint"])]), dir=str(folder), config=config_of(about),
            mode=None if logged_in else "offline", resume="allow", reinit="create_new",
        )  # fmt: skip
        run.define_metric("*", step_metric="step")  # evaluations are told apart from rows of training of the same step
        return _WandbRun(run, folder / f"{identity}.json")


class _WandbRun:
    """What was told is noted beside, as nothing can be taken back there: kind of row -> its last step."""

    def __init__(self, run: Any, notes: Path) -> None:
        self._run, self._notes = run, notes
        self.told = told(notes)

    def log(self, rows: Mapping[int, Values]) -> None:
        for step, values in sorted(rows.items()):
            kind = next(iter(values), "").partition("/")[0]
            if kind and step > self.told.get(kind, -1):
                self._run.log({"step": step, **values})
                self.told[kind] = step
        write_json(self._notes, self.told)

    def end(self, status: str) -> None:
        self._run.summary["status"] = status
        self._run.finish(exit_code=int(status == "failed"))


def identity_of(about: Mapping[str, Any]) -> str:
    """Of a seed's run.json, as long as it goes on, wherever: one that was begun afresh is another."""
    begun = hashlib.sha256(str(about.get("created")).encode()).hexdigest()[:8]
    return f"{about['fingerprint']}-{about['seed']}-{begun}"


def told(notes: Path) -> dict[str, int]:
    """What was told before; nothing where no note can be read."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return {str(kind): int(step) for kind, step in json.loads(read_plain(notes)).items()}
    return {}


def config_of(about: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run.json: what it was, and every setting's value."""
    names = ("suite", "task", "method", "protocol", "fingerprint", "seed")
    whole = {name: about[name] for name in names if name in about}
    return whole | {key: one["value"] for key, one in about.get("config", {}).items()}


def tracking(name: str, say: Callable[[str], None]) -> Tracking:
    """Of the option's value, "" for none; where its package cannot be loaded a line says so, and nothing is told."""
    makers: Mapping[str, Callable[[], Tracker]] = {"tensorboard": TensorBoard, "wandb": Wandb}
    found = Tracking(say=say)
    if name:
        with found.guarded():
            found.tracker = makers[name]()
    return found
