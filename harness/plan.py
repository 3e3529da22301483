"""Suite x methods x seeds -> lanes by fingerprint.

A lane is one training of one stage: its fingerprint covers all that the result depends on (data, task spec, the stage's
settings and rule, the seed, and the lanes whose parts it reads). Equal fingerprints are one lane, trained once; its
parts are kept under `results/artifacts/<fingerprint>/` and used by every run that asks for them. Sharing, resuming,
adding seeds and skipping what is done are consequences.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import methods
import tasks
from harness.config import Override, Resolved, RunSettings, protocol, resolve
from harness.files import contents
from methods.core import BadInput, ControlConfig, Method, Stage, Unfit
from methods.goals import Goals, Relabelled
from methods.inference import declaration
from methods.sampling import ROWS
from methods.settings import REWARD_SETTINGS, Rewards, neutral, structure
from tasks.core import Task, options

FORMAT = 2  # raise when the meaning of stored parts or records changes


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
    """A stage of a run, whatever the seed."""

    stage: Stage
    identity: Mapping[str, Any]  # of all that its lanes have in common
    fingerprint: str
    number: int  # among the method's stages, in order; an online phase comes last
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


@dataclass(frozen=True, eq=False)
class Lane:
    """One training of one stage, with one seed."""

    node: StageNode
    method: Method  # whose stage it is
    task: Task
    seed: int
    identity: Mapping[str, Any]
    fingerprint: str
    reads: Mapping[str, Lane]  # part -> the lane that trains it
    depth: int  # length of the longest chain of lanes before it

    @property
    def label(self) -> str:
        return f"{self.method.name} on {self.task.name}: {self.node.stage.name}"

    @cached_property
    def structure(self) -> tuple[Any, ...]:
        """Equal for lanes on one dataset that one compiled program can train side by side."""
        shape = {key: self.identity[key] for key in ("task", "spec", "stage", "trains", "steps", "rule")}
        return (type(self.method), self.node.number, repr(shape), structure(self.method.config),
                self.method.rewards, self.node.online, self.depth)  # fmt: skip


@dataclass(frozen=True, eq=False)
class RunNode:
    """One method with one setting on one task: stages to have, then an evaluation."""

    task: Task
    method: Method
    resolved: Resolved
    settings: RunSettings
    nodes: tuple[StageNode, ...]
    fingerprint: str
    continues: RunNode | None = None  # the offline run that an online phase goes on from, and whose record it takes on
    setting: str = ""  # what tells it from the other runs of a sweep, e.g. "alpha=3"
    protocol: str = ""  # its name; "" where the suite has no names for protocols

    @property
    def name(self) -> str:
        return f"{self.method.name} online" if self.continues else self.method.name

    @property
    def label(self) -> str:
        return f"{self.name} on {self.task.name}" + (f" ({self.setting})" if self.setting else "")

    @property
    def phase(self) -> str:
        """That of the evaluations before the last."""
        return "online" if self.continues else "offline"

    def folder(self, results: Path) -> Path:
        """Of all seeds."""
        return results / "runs" / self.task.suite / self.task.name / self.method.name / self.fingerprint

    def trials(self) -> tuple[Trial, ...]:
        return tuple(Trial(self, seed) for seed in self.settings.seeds)

    def lanes(self, seed: int) -> tuple[Lane, ...]:
        """A lane for each stage, in order."""
        lanes: list[Lane] = []
        made_by: dict[str, Lane] = {}
        for node in self.nodes:
            reads = {part: made_by[part] for part in node.identity["reads"]}
            fingerprints = {part: lane.fingerprint for part, lane in reads.items()}
            identity = {**node.identity, "seed": seed, "reads": fingerprints}
            depth = 1 + max((lane.depth for lane in reads.values()), default=-1)
            lanes.append(Lane(node, self.method, self.task, seed, identity, fingerprint(identity), reads, depth))
            made_by |= dict.fromkeys(node.stage.trains, lanes[-1])
        return tuple(lanes)

    def evaluation_steps(self) -> tuple[int, ...]:
        """Steps of the record, within the last stage, after which the policy is evaluated; its end always is."""
        first, every = self.nodes[-1].first, self.settings.evaluate_every
        last = first + self.nodes[-1].stage.steps
        if self.continues:
            every = self.settings.online_evaluate_every or every
        return (*range(first + every, last, every), last)


class Trial(NamedTuple):
    """One seed of one run: the unit of the records."""

    run: RunNode
    seed: int

    @property
    def label(self) -> str:
        return f"{self.run.label}, seed {self.seed}"

    @property
    def before(self) -> Trial | None:
        """The offline trial that an online phase goes on from."""
        return Trial(self.run.continues, self.seed) if self.run.continues else None

    def folder(self, results: Path) -> Path:
        return self.run.folder(results) / f"seed-{self.seed}"

    def lanes(self) -> tuple[Lane, ...]:
        return self.run.lanes(self.seed)


def bound(name: str, config: Any, spec: Any, family: str = "control") -> Method:
    """A method with its settings, bound to a task's spec: where it chooses chunks of actions, to that of chunks."""
    spec = spec.chunked(config.chunk) if isinstance(config, ControlConfig) else spec
    method: Method = methods.get(name, family)(config, spec)
    return method


def _chunk(method: Method) -> int:
    """Actions that it chooses at once."""
    return method.config.chunk if isinstance(method.config, ControlConfig) else 1


def _check_chunk(method: Method, task: Task) -> None:
    """Raises `BadInput`: a chunk of actions is longer than any episode."""
    chunk = _chunk(method)
    if chunk > 1 and chunk > task.spec.horizon:
        raise BadInput(f"{method.name}.chunk={chunk}: an episode of {task.name} has at most {task.spec.horizon} "
                       f"step{'s' * (task.spec.horizon > 1)}")  # fmt: skip


def _check_goals(method: Method, stages: Sequence[Stage]) -> None:
    """Raises `BadInput`: a stage looks at what data of a task of goals do not say; `Unfit` where the method as such
    does."""
    if method.rewards != Rewards():
        raise BadInput(f"{method.name}: {', '.join(sorted(REWARD_SETTINGS))}: in tasks of goals rewards come with the "
                       "goals, by --set task.goals")  # fmt: skip
    for stage in stages:
        if stage.prepare or stage.complete or not isinstance(stage.sample, Relabelled | Goals):
            raise Unfit(f"{method.name}: its stage {stage.name!r} looks at the whole dataset (weights of imitation, a "
                        "normaliser), whose rows have no goals and no rewards in tasks of goals")  # fmt: skip


def _check_turns(task: Task, settings: RunSettings) -> None:
    """Raises `BadInput`: some of a task's goals would count more than others."""
    turns = getattr(task, "turns", 1)
    if settings.episodes % turns:
        raise BadInput(f"--episodes {settings.episodes}: {task.name} has {turns} goals in turn, so it takes a multiple "
                       f"of {turns}")  # fmt: skip


def plan_run(
    task: Task, data_id: str, name: str, overrides: Sequence[Override], settings: RunSettings, setting: str = "",
    bundle: str = "",
) -> RunNode:  # fmt: skip
    """The node of one run; `data_id` identifies the task's transitions (`tasks.core.Dataset.identity`), `setting` says
    what tells it from others of a sweep, `bundle` names its protocol, whose own overrides are among `overrides`."""
    usual, chosen = protocol(task.suite).name, protocol(task.suite, bundle).name
    resolved = resolve(name, task.suite, task.name, overrides, online=settings.online_steps > 0, protocol=chosen)
    method = bound(name, resolved.config, task.spec, tasks.family(task.suite))
    _check_chunk(method, task)
    stages = (*method.stages(), *method.evaluation(settings.episodes, getattr(task, "judge", "")))
    _check_turns(task, settings)
    if getattr(method.spec, "goals", None):
        _check_goals(method, stages)
    nodes: list[StageNode] = []
    made_by: dict[str, str] = {}
    for stage in stages:
        identity = {
            "format": FORMAT, "data": data_id, "task": f"{task.suite}/{task.name}", "spec": _spec(method),
            "stage": stage.name, "trains": sorted(stage.trains), "steps": stage.steps,
            "rule": stage.rule, "config": _config(stage, method),
            "reads": {part: made_by[part] for part in sorted(stage.reads)},
            **_sampling(stage),
        } | ({"files": [contents(path) for path in stage.files]} if stage.files else {})  # fmt: skip
        before = sum(node.stage.steps for node in nodes) if stage.steps == 0 else 0
        node = StageNode(stage, identity, fingerprint(identity), len(nodes), before)
        made_by |= dict.fromkeys(stage.trains, node.fingerprint)
        nodes.append(node)
    hidden = method.exploring | neutral(resolved.config)
    hidden |= REWARD_SETTINGS if method.rewards == Rewards() else frozenset()
    identity = {
        "format": FORMAT, "method": name, "stages": [node.fingerprint for node in nodes],
        "config": {key: _plain(value) for key, value in asdict(resolved.config).items() if key not in hidden},
        "episodes": settings.episodes, "evaluate_every": settings.evaluate_every, "task": options(task),
        **({} if chosen == usual else {"protocol": chosen}),  # of runs alone: equal lanes are one
    }  # fmt: skip
    whole = fingerprint(identity)
    return RunNode(task, method, resolved, settings, tuple(nodes), whole, setting=setting, protocol=chosen)


def plan_online(run: RunNode) -> RunNode:
    """The run that goes on online from the end of an offline one, for `settings.online_steps` environment steps.

    Raises:
      BadInput: the method has no rule for it, or nothing would be learned.
    """
    settings, stage, end = run.settings, run.method.online(), run.nodes[-1]
    if stage is None:
        raise BadInput(f"--online-steps {settings.online_steps}: {run.method.name} has no rule for an online phase")
    if not stage.sample.online and run.method.spec.goals:
        raise BadInput(f"--online-steps {settings.online_steps}: {run.task.suite} has no online phase, as goals are "
                       "learned from finished episodes")  # fmt: skip
    if not stage.sample.online:
        raise BadInput(f"--online-steps {settings.online_steps}: {run.method.name} learns from finished episodes "
                       "alone")  # fmt: skip
    if settings.online_steps <= settings.online_warmup:
        raise BadInput(f"--online-steps {settings.online_steps}: nothing is learned in them, as --online-warmup is "
                       f"{settings.online_warmup}")  # fmt: skip
    if 0 < settings.replay_capacity < stage.sample.length:
        raise BadInput(f"--replay-capacity {settings.replay_capacity}: {run.method.name} learns from "
                       f"{stage.sample.length} consecutive transitions (chunk, n_step)")  # fmt: skip
    stage = stage._replace(steps=settings.online_steps)
    online = OnlineSettings(settings.online_warmup, settings.updates_per_step, settings.replay_capacity)
    made_by = {part: node.fingerprint for node in run.nodes for part in node.stage.trains}
    identity = {
        **{key: end.identity[key] for key in ("format", "data", "task", "spec")},
        "stage": stage.name, "trains": sorted(stage.trains), "steps": stage.steps, "rule": stage.rule,
        "config": {**_config(stage, run.method), "online": asdict(online)},
        "reads": {part: made_by[part] for part in sorted(made_by)}, **_sampling(stage),
    }  # fmt: skip
    first = end.first + end.stage.steps
    node = StageNode(stage, identity, fingerprint(identity), len(run.nodes), first, online)
    whole = {"format": FORMAT, "continues": run.fingerprint, "online": node.fingerprint,
             "evaluate_every": settings.online_evaluate_every or settings.evaluate_every}  # fmt: skip
    return replace(run, nodes=(*run.nodes, node), fingerprint=fingerprint(whole), continues=run)


def plan_all(
    task: Task, data_id: str, names: Sequence[str], overrides: Sequence[Override], settings: RunSettings,
    sweeps: Mapping[str, Sequence[Sequence[Override]]] | None = None, *, named: bool = True, bundle: str = "",
) -> list[RunNode]:  # fmt: skip
    """The runs of several methods on one task, and those that go on online from them, if that is asked for. Of a method
    in `sweeps` there is one for each setting there. Unless the methods were `named`, those without an online rule are
    left out of it, and those that do not fit the task at all.

    Raises:
      BadInput: see `plan_run` and `plan_online`.
    """
    runs = []
    for name in names:
        for swept in (sweeps or {}).get(name, [()]):
            label = ", ".join(f"{one.key}={one.value}" for one in swept)
            try:
                runs.append(plan_run(task, data_id, name, (*overrides, *swept), settings, label, bundle))
            except Unfit:
                if named:
                    raise
    runs = list({run.fingerprint: run for run in reversed(runs)}.values())[::-1]  # "3" and "3.0" are one setting
    going_on = [run for run in runs if settings.online_steps and (named or run.method.online())]
    return runs + [plan_online(run) for run in going_on]


def _config(stage: Stage, method: Method) -> dict[str, Any]:
    """A stage's settings; those of rewards only where they change the task's own and the stage learns from rewards."""
    rewarded = method.rewards != Rewards() and stage.rewarded
    names = sorted(REWARD_SETTINGS - neutral(method.config)) if rewarded else ()
    rewards = {key: getattr(method.config, key) for key in names}
    return {key: _plain(value) for key, value in {**stage.config, **rewards}.items()}


def _spec(method: Method) -> dict[str, Any]:
    """The task's spec as the method sees it; what observations are made of only where they are more than a vector.
    What a stage sees of goals is in its `sample`."""
    seen = {key: value for key, value in asdict(method.spec).items() if key != "goals"}
    return {key: value for key, value in seen.items() if key != "observation" or value}


def _sampling(stage: Stage) -> dict[str, Any]:
    """How a stage's batches are drawn, where not by single rows."""
    by: Any = stage.sample if isinstance(stage, Stage) else ROWS  # language's stages see to their batches themselves
    return {} if by == ROWS else {"sample": {"by": type(by).__name__, **asdict(by)}}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def describe(trial: Trial) -> dict[str, Any]:
    """The part of `run.json` that is known before anything runs."""
    run = trial.run
    config, about = asdict(run.resolved.config), tasks.about(run.task.suite)
    return {
        "suite": run.task.suite, "task": run.task.name, "method": run.method.name, "fingerprint": run.fingerprint,
        "protocol": run.protocol,
        "config": {key: {"value": _plain(value), "origin": run.resolved.origins[key]} for key, value in config.items()},
        "task_options": options(run.task),
        "seed": trial.seed, "knobs": list(run.method.knobs[0]), "episodes": run.settings.episodes,
        "inference": declaration(run.method, _chunk(run.method)), "unit": about.unit, "share": about.share,
        "evaluation_steps": [],
        **_online(run),
    }  # fmt: skip


def _online(run: RunNode) -> dict[str, Any]:
    """What a record says of an online phase: its settings, what it continues and at which step."""
    node = run.nodes[-1]
    if not (run.continues and node.online):
        return {}
    return {"online": {"continues": run.continues.fingerprint, "from_step": node.first, "steps": node.stage.steps,
                       **asdict(node.online)}}  # fmt: skip
