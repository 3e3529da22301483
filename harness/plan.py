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
from dataclasses import asdict, dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import methods
from harness.config import Override, Resolved, RunSettings, resolve
from methods.core import Method, Stage
from tasks.core import Task, options

FORMAT = 1  # raise when the meaning of stored parts or records changes


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the identity's canonical form."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class StageNode:
    """A stage of the graph."""

    stage: Stage
    identity: Mapping[str, Any]
    fingerprint: str


@dataclass(frozen=True)
class RunNode:
    """One method on one task: stages to have, then an evaluation."""

    task: Task
    method: Method
    resolved: Resolved
    settings: RunSettings
    nodes: tuple[StageNode, ...]
    fingerprint: str

    @property
    def label(self) -> str:
        return f"{self.method.name} on {self.task.name}"

    def folder(self, results: Path) -> Path:
        return results / "runs" / self.task.suite / self.task.name / self.method.name / self.fingerprint

    def evaluation_steps(self) -> tuple[int, ...]:
        """Steps of the last stage after which the policy is evaluated; its end always is."""
        last, every = self.nodes[-1].stage.steps, self.settings.evaluate_every
        return (*range(every, last, every), last)


def plan_run(task: Task, data_id: str, name: str, overrides: Sequence[Override], settings: RunSettings) -> RunNode:
    """The node of one run; `data_id` identifies the task's transitions (their file's SHA-256)."""
    resolved = resolve(name, task.suite, task.name, overrides)
    method: Method = methods.get(name)(resolved.config, task.spec)
    nodes: list[StageNode] = []
    made_by: dict[str, str] = {}
    for stage in method.stages():
        identity = {
            "format": FORMAT, "data": data_id, "task": f"{task.suite}/{task.name}", "spec": asdict(task.spec),
            "seeds": list(settings.seeds), "stage": stage.name, "trains": sorted(stage.trains), "steps": stage.steps,
            "rule": stage.rule, "config": {key: _plain(value) for key, value in stage.config.items()},
            "reads": {part: made_by[part] for part in sorted(stage.reads)},
        }  # fmt: skip
        node = StageNode(stage, identity, fingerprint(identity))
        made_by |= dict.fromkeys(stage.trains, node.fingerprint)
        nodes.append(node)
    identity = {
        "format": FORMAT, "method": name, "stages": [node.fingerprint for node in nodes],
        "config": {key: _plain(value) for key, value in asdict(resolved.config).items()},
        "episodes": settings.episodes, "evaluate_every": settings.evaluate_every, "task": options(task),
    }  # fmt: skip
    return RunNode(task, method, resolved, settings, tuple(nodes), fingerprint(identity))


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
        "evaluation_steps": [],
    }  # fmt: skip
