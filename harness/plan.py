"""Suite x methods -> a graph of stages by fingerprint.

A stage's fingerprint covers all that its result depends on: data, task spec, seeds, its settings and rule, and the
fingerprints of the parts it reads. Equal fingerprints are one node, run once; its parts are kept under
`results/artifacts/<fingerprint>/` and adopted by every run that asks for them. Sharing, resuming and skipping what is
done are consequences.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import methods
import tasks
from harness.config import Override, Resolved, RunSettings, resolve
from harness.files import contents
from methods.core import REWARD_SETTINGS, BadInput, Method, Rewards, Stage
from methods.inference import declaration
from tasks.core import Task, options

FORMAT = 1  # raise when the meaning of stored parts or records changes


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the identity's canonical form."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class OnlineSettings:
    """How a stage is fed that gathers its own transitions; its steps are environment steps of each seed."""

    warmup: int  # environment steps before the first update
    updates: int  # gradient steps to an environment step
    capacity: int  # of the replay buffer; 0: room for all


@dataclass(frozen=True)
class StageNode:
    """A stage of the graph."""

    stage: Stage
    identity: Mapping[str, Any]
    fingerprint: str
    first: int = 0  # steps in the record before its own: an online phase counts on from the offline end, and what
    # trains nothing (responses, verdicts) is recorded at the end of all training
    online: OnlineSettings | None = None  # of a stage that gathers its own transitions

    @property
    def needs(self) -> frozenset[str]:
        """Parts of earlier stages that it reads or goes on with."""
        return self.stage.reads | self.stage.trains if self.online else self.stage.reads

    @property
    def updates(self) -> int:
        """Gradient steps."""
        return (self.stage.steps - self.online.warmup) * self.online.updates if self.online else self.stage.steps


@dataclass(frozen=True)
class RunNode:
    """One method on one task: stages to have, then an evaluation."""

    task: Task
    method: Method
    resolved: Resolved
    settings: RunSettings
    nodes: tuple[StageNode, ...]
    fingerprint: str
    continues: RunNode | None = None  # the offline run that an online phase goes on from, and whose record it takes on

    @property
    def name(self) -> str:
        return f"{self.method.name} online" if self.continues else self.method.name

    @property
    def label(self) -> str:
        return f"{self.name} on {self.task.name}"

    @property
    def phase(self) -> str:
        """That of the evaluations before the last."""
        return "online" if self.continues else "offline"

    def folder(self, results: Path) -> Path:
        return results / "runs" / self.task.suite / self.task.name / self.method.name / self.fingerprint

    def evaluation_steps(self) -> tuple[int, ...]:
        """Steps of the record, within the last stage, after which the policy is evaluated; its end always is."""
        first, every = self.nodes[-1].first, self.settings.evaluate_every
        last = first + self.nodes[-1].stage.steps
        if self.continues:
            every = self.settings.online_evaluate_every or every
        return (*range(first + every, last, every), last)


def plan_run(task: Task, data_id: str, name: str, overrides: Sequence[Override], settings: RunSettings) -> RunNode:
    """The node of one run; `data_id` identifies the task's transitions (`tasks.core.Dataset.identity`)."""
    resolved = resolve(name, task.suite, task.name, overrides, online=settings.online_steps > 0)
    method: Method = methods.get(name, tasks.family(task.suite))(resolved.config, task.spec)
    nodes: list[StageNode] = []
    made_by: dict[str, str] = {}
    for stage in (*method.stages(), *method.evaluation(settings.episodes, getattr(task, "judge", ""))):
        identity = {
            "format": FORMAT, "data": data_id, "task": f"{task.suite}/{task.name}", "spec": asdict(task.spec),
            "seeds": list(settings.seeds), "stage": stage.name, "trains": sorted(stage.trains), "steps": stage.steps,
            "rule": stage.rule, "config": _config(stage, method),
            "reads": {part: made_by[part] for part in sorted(stage.reads)},
        } | ({"files": [contents(path) for path in stage.files]} if stage.files else {})  # fmt: skip
        before = sum(node.stage.steps for node in nodes) if stage.steps == 0 else 0
        node = StageNode(stage, identity, fingerprint(identity), before)
        made_by |= dict.fromkeys(stage.trains, node.fingerprint)
        nodes.append(node)
    hidden = method.exploring | (REWARD_SETTINGS if method.rewards == Rewards() else frozenset())
    identity = {
        "format": FORMAT, "method": name, "stages": [node.fingerprint for node in nodes],
        "config": {key: _plain(value) for key, value in asdict(resolved.config).items() if key not in hidden},
        "episodes": settings.episodes, "evaluate_every": settings.evaluate_every, "task": options(task),
    }  # fmt: skip
    return RunNode(task, method, resolved, settings, tuple(nodes), fingerprint(identity))


def plan_online(run: RunNode) -> RunNode:
    """The run that goes on online from the end of an offline one, for `settings.online_steps` environment steps.

    Raises:
      BadInput: the method has no rule for it, or nothing would be learned.
    """
    settings, stage, end = run.settings, run.method.online(), run.nodes[-1]
    if stage is None:
        raise BadInput(f"--online-steps {settings.online_steps}: {run.method.name} has no rule for an online phase")
    if settings.online_steps <= settings.online_warmup:
        raise BadInput(f"--online-steps {settings.online_steps}: nothing is learned in them, as --online-warmup is "
                       f"{settings.online_warmup}")  # fmt: skip
    stage = stage._replace(steps=settings.online_steps)
    online = OnlineSettings(settings.online_warmup, settings.updates_per_step, settings.replay_capacity)
    made_by = {part: node.fingerprint for node in run.nodes for part in node.stage.trains}
    identity = {
        **{key: end.identity[key] for key in ("format", "data", "task", "spec", "seeds")},
        "stage": stage.name, "trains": sorted(stage.trains), "steps": stage.steps, "rule": stage.rule,
        "config": {**_config(stage, run.method), "online": asdict(online)},
        "reads": {part: made_by[part] for part in sorted(made_by)},
    }  # fmt: skip
    node = StageNode(stage, identity, fingerprint(identity), end.first + end.stage.steps, online)
    whole = {"format": FORMAT, "continues": run.fingerprint, "online": node.fingerprint,
             "evaluate_every": settings.online_evaluate_every or settings.evaluate_every}  # fmt: skip
    return replace(run, nodes=(*run.nodes, node), fingerprint=fingerprint(whole), continues=run)


def plan_all(
    task: Task, data_id: str, names: Sequence[str], overrides: Sequence[Override], settings: RunSettings, *,
    chosen: bool = True,
) -> list[RunNode]:  # fmt: skip
    """The runs of several methods on one task, and those that go on online from them, if that is asked for. Unless the
    methods were `chosen`, those without an online rule are left out of it.

    Raises:
      BadInput: see `plan_run` and `plan_online`.
    """
    runs = [plan_run(task, data_id, name, overrides, settings) for name in names]
    going_on = [run for run in runs if settings.online_steps and (chosen or run.method.online())]
    return runs + [plan_online(run) for run in going_on]


def _config(stage: Stage, method: Method) -> dict[str, Any]:
    """A stage's settings; those of rewards only where they change the task's own and the stage learns from rewards."""
    rewarded = method.rewards != Rewards() and stage.rewarded
    rewards = {key: getattr(method.config, key) for key in sorted(REWARD_SETTINGS)} if rewarded else {}
    return {key: _plain(value) for key, value in {**stage.config, **rewards}.items()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Groups:
    """Runs by the stage that they share as their last, and which of these stages must come before which."""

    members: Mapping[str, Sequence[RunNode]]
    after: Mapping[str, set[str]]

    def sorter(self) -> TopologicalSorter[str]:
        """Hands out groups whose predecessors are done."""
        return TopologicalSorter(self.after)

    def ordered(self) -> list[Sequence[RunNode]]:
        """One group after the other."""
        return [self.members[last] for last in self.sorter().static_order()]


def together(runs: Sequence[RunNode]) -> Groups:
    """The runs in groups that share their last stage. One whose last stage others need on their way goes before them,
    so that it is evaluated while that stage trains."""
    members: dict[str, list[RunNode]] = {}
    for run in runs:
        members.setdefault(run.nodes[-1].fingerprint, []).append(run)
    needed = {last: {node.fingerprint for run in group for node in run.nodes[:-1]} for last, group in members.items()}
    return Groups(members, {last: needed[last] & members.keys() for last in members})


def describe(run: RunNode) -> dict[str, Any]:
    """The part of `run.json` that is known before anything runs."""
    config = asdict(run.resolved.config)
    return {
        "suite": run.task.suite, "task": run.task.name, "method": run.method.name, "fingerprint": run.fingerprint,
        "config": {key: {"value": _plain(value), "origin": run.resolved.origins[key]} for key, value in config.items()},
        "task_options": options(run.task),
        "seeds": list(run.settings.seeds), "knobs": list(run.method.knobs[0]), "episodes": run.settings.episodes,
        "inference": declaration(run.method), "evaluation_steps": [], **_online(run),
    }  # fmt: skip


def _online(run: RunNode) -> dict[str, Any]:
    """What a record says of an online phase: its settings, what it continues and at which step."""
    node = run.nodes[-1]
    if not (run.continues and node.online):
        return {}
    return {"online": {"continues": run.continues.fingerprint, "from_step": node.first, "steps": node.stage.steps,
                       **asdict(node.online)}}  # fmt: skip
