"""The contract every method fulfils: stages that train named parts of a state, and a way to act.

Neither this file nor what it imports loads JAX, so that tasks and simulator processes can name a `TaskSpec`.

Reading order for newcomers: this file, `settings.py`, `learner.py`, `fql.py`, `vgf.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from math import ceil
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self

from core.errors import Absent, BadInput, Unfit
from methods.goals import ACHIEVED, HINDSIGHT, GoalLaw, GoalRule
from methods.inference import Cost, Diagnosis, Knob
from methods.sampling import ROWS, Rows, Sampling, Windows
from methods.settings import (
    REWARD_SETTINGS,
    Added,
    ControlConfig,
    Count,
    Explore,
    Fraction,
    MethodConfig,
    Moves,
    Order,
    PositiveFloat,
    PositiveInt,
    Repeats,
    Rewards,
    Static,
    Switch,
    Test,
    Weight,
    is_on,
    leaves,
    marked,
    neutral,
    structure,
)

if TYPE_CHECKING:
    import jax

    Array = jax.Array
else:
    Array = Any

__all__ = ["ACHIEVED", "HINDSIGHT", "Absent", "Added", "Array", "BadInput", "Batch", "Columns",
           "ControlConfig", "Count", "Explore", "Fraction", "GoalLaw", "GoalRule", "Key", "Knobs", "Method",
           "MethodConfig", "Metrics", "Moves", "Order", "Part", "PositiveFloat", "PositiveInt", "Repeats",
           "Rewards", "Stage", "State", "Static", "Switch", "TaskSpec", "Test", "Unfit", "Weight", "act_keys", "is_on",
           "leaves", "neutral", "part_key", "structure"]  # fmt: skip

Key = Array
"""A typed JAX PRNG key (`jax.random.key`)."""

State = dict[str, Any]
"""Part name -> pytree. Parts are what stages train and what artefacts store: "behavior", "critic", "actor"."""

Batch = Mapping[str, Array]
"""Column name -> `[b, ...]`. Always: observations and next_observations `[b, o]` (or pytrees: `TaskSpec.split`),
actions `[b, a]`, rewards `[b]`, masks `[b]` (0 where the episode truly ended). On request (`Method.fields`): terminals
`[b]` (1 at the last transition of its episode) and next_actions `[b, a]` (of the same episode; 0 where there is none).
What a stage's `sample` makes of them stands there: windows (`methods/sampling.py`) have `valid`, too, goals
(`methods/goals.py`) value_goals and actor_goals."""

Columns = Mapping[str, Array]
"""The same columns for a whole dataset: `[t, ...]`."""

Metrics = dict[str, Array]
"""Scalars that an update reports, named `<part>/<quantity>`."""

Knobs = Mapping[str, Array]
"""Test-time settings, one value a row: name -> `[b]`. `{}` for methods that have none."""


@dataclass(frozen=True)
class TaskSpec:
    """What a method may know of a task."""

    obs_dim: int
    action_dim: int  # actions live in [-1, 1]^action_dim
    horizon: int  # longest episode, in environment steps
    observation: tuple[tuple[str, int], ...] = ()  # names and widths of what an observation is made of, in the order of
    # the names, where it is more than one vector
    goals: GoalRule | None = None  # of a task of goals: an observation is the goal's and the state's, one after the
    # other, the data hold states, and their rewards say nothing

    def __post_init__(self) -> None:
        """Raises: BadInput."""
        names, widths = [name for name, _ in self.observation], [width for _, width in self.observation]
        if names and (names != sorted(set(names)) or sum(widths) != self.obs_dim):
            raise BadInput(f"observation {dict(self.observation)}: names must be sorted and different, and widths "
                           f"add up to {self.obs_dim}")  # fmt: skip

    def chunked(self, h: int) -> TaskSpec:
        """As a method sees it that chooses h actions at once, flattened step by step: `[h * action_dim]`."""
        return self if h == 1 else replace(self, action_dim=h * self.action_dim, horizon=ceil(self.horizon / h))

    def split(self, obs: Array) -> Any:
        """Observations as methods see them, from vectors `[..., o]`: those, or name -> `[..., width]`."""
        parts, start = {}, 0
        for name, width in self.observation:
            parts[name] = obs[..., start : start + width]
            start += width
        return parts or obs

    def seen(self, columns: Mapping[str, Array]) -> dict[str, Any]:
        """Columns with their observations split."""
        names = columns.keys() & {"observations", "next_observations"}
        return {**columns, **{name: self.split(columns[name]) for name in names}}


class Part(Protocol):
    """What makes a part of the state: a component, such as a critic or an actor. It may have `companions`, a mapping of
    further parts that stages train before it, for it alone; and `within(stage, name)`, what becomes of the method's
    stage that trains it under that name."""

    def init(self, key: Key) -> Any:
        """The part at its start. `key` is consumed."""


class Stage(NamedTuple):
    """A span of gradient steps that trains some parts while reading others.

    Two stages with equal fingerprints (dataset, spec, seeds, `trains`, `config`, `rule`, `steps` and the
    fingerprints of the parts they read) are the same work and run once: see `harness/plan.py`.
    """

    name: str
    """"behavior", "critic", "joint", ..."""
    trains: frozenset[str]
    """Parts of the state it changes."""
    steps: int
    """Gradient steps."""
    update: Callable[[State, Batch, Key], tuple[State, Metrics]]
    """One gradient step: pure, so that it can be scanned over steps and vmapped over seeds."""
    rule: str
    """What the stage computes, in words that change whenever the result would."""
    config: Mapping[str, Any]
    """The settings its result depends on."""
    batch_size: int
    """Transitions a step."""
    reads: frozenset[str] = frozenset()
    """Parts it needs but does not change."""
    prepare: Callable[[State, Columns, Key], Columns] | None = None
    """Extra per-transition columns, computed once before the first step from the parts it reads.
    Called with a block of at most a few thousand transitions, so it must treat rows independently."""
    complete: Callable[[State, Columns], tuple[State, Columns]] | None = None
    """What takes the whole dataset in order, after `prepare`: trained parts with a closed form (a normaliser), and
    further columns (returns along episodes). Done whenever the stage starts or resumes, so it must be repeatable."""
    period: int = 1
    """With `between`: `update` is done at every so many steps, `between` at the others (delayed policy updates)."""
    between: Callable[[State, Batch, Key], tuple[State, Metrics]] | None = None
    """A step of the same kind that reports some of the same metrics."""
    files: tuple[str, ...] = ()
    """Folders that it starts from, whose contents are part of its identity."""
    rewarded: bool = True
    """Whether it learns from rewards, so that `Method.rewards` is part of its identity (imitation does not)."""
    sample: Sampling = ROWS
    """How its batches are drawn from the data."""
    columns: frozenset[str] = frozenset()
    """Columns that `prepare` or `complete` looks at beside the method's `fields`."""

    def completing(self, more: Callable[[State, Columns], tuple[State, Columns]] | None) -> Stage:
        """The stage with something else to `complete`, after what it has."""
        own = self.complete
        if own is None or more is None:
            return self._replace(complete=own or more)

        def both(state: State, columns: Columns) -> tuple[State, Columns]:
            state, made = own(state, columns)
            state, others = more(state, columns)
            return state, {**made, **others}

        return self._replace(complete=both)


@dataclass(frozen=True)
class Method:
    """Base of every method: its settings and the task it is bound to. Subclasses are frozen dataclasses too.

    A method names its `parts`, says what an update draws (`draw`) and does (`update_parts`), and how to act
    (`candidates`, `choose`). One stage then trains all parts together; methods with more stages say so in `stages`.
    """

    config: Any
    spec: TaskSpec  # of actions as the method chooses them, chunks if it is told to
    name: ClassVar[str] = ""
    rule: ClassVar[str] = ""  # what its own stage computes, in words that change whenever its result would
    greedy: ClassVar[bool] = False  # whether it acts without randomness
    Config: ClassVar[type[MethodConfig]]  # the class of `config`
    inference: ClassVar[tuple[Knob, ...]] = ()  # what the names in `knobs` are

    @property
    def fields(self) -> frozenset[str]:
        """Batch columns the updates read."""
        return frozenset({"observations", "actions", "rewards", "masks", "next_observations"})

    @property
    def knobs(self) -> tuple[Mapping[str, float], ...]:
        """Test-time settings to evaluate, e.g. `({"L_test": 0}, {"L_test": 1})`; `({},)` when there are none: every
        combination of the values that the settings of `inference` list."""
        grids = [getattr(self.config, knob.setting) for knob in self.inference]
        return tuple({knob.name: value for knob, value in zip(self.inference, values, strict=True)}
                     for values in product(*grids))  # fmt: skip

    def cost(self, knobs: Mapping[str, float]) -> Cost | None:
        """What one action costs where this setting of `knobs` is the only one (those that are evaluated together run in
        one program, which does for all what the dearest needs); None: not declared, so that no figure shows it."""
        del knobs
        return None

    @property
    def rewards(self) -> Rewards:
        """What it learns from. The harness makes the batches' rewards so, and puts it into the stages' identity."""
        c = self.config
        if not isinstance(c, ControlConfig):
            return Rewards()
        return Rewards(c.rewards, c.reward_scale, c.reward_shift, c.masks)

    @property
    def diagnoses(self) -> tuple[Diagnosis, ...]:
        """What `diagnose` answers."""
        return ()

    def diagnose(self, state: State, obs: Array, near: Array, key: Key) -> Mapping[str, Array]:
        """The values of its `diagnoses` by name, at observations `[b, o]` of the data near which the actions `near`
        `[b, m, a]` were taken. `key` is consumed."""
        raise NotImplementedError

    # training

    @property
    def parts(self) -> Mapping[str, Part]:
        """What its own stage trains: name -> what makes it."""
        raise NotImplementedError

    def draw(self, key: Key, batch: Batch) -> Any:
        """The random draws of one `update_parts`; none by default. `key` is consumed."""
        del key, batch

    def update_parts(self, state: State, batch: Batch, draws: Any) -> tuple[State, Metrics]:
        """The state after one gradient step of the parts."""
        raise NotImplementedError

    def idle(self) -> frozenset[str]:
        """Settings of training that have no bearing on it as the others stand."""
        return frozenset()

    def init(self, key: Key) -> State:
        """Fresh parts, each a function of `key` and its own name alone, so that a part trained by another
        method from the same key and settings is the same part. `key` is consumed."""
        companions = [getattr(part, "companions", {}) for part in self.parts.values()]
        parts = {name: part for group in (self.parts, *companions) for name, part in group.items()}
        return {name: part.init(part_key(key, name)) for name, part in parts.items()}

    def stages(self) -> tuple[Stage, ...]:
        """The stages in the order they run."""
        return (self.stage("joint"),)

    def stage(self, name: str, **changes: Any) -> Stage:
        """A stage that trains the parts, with `changes` to its fields."""
        stage = Stage(
            name=name,
            trains=frozenset(self.parts),
            steps=self.config.steps,
            update=self.update,
            rule=self.rule,
            config=self.settings(),
            batch_size=self.config.batch_size,
            sample=self.sample,
        )
        stage = stage._replace(**changes)
        for part, made_by in self.parts.items():
            if part in stage.trains and hasattr(made_by, "within"):
                stage = made_by.within(stage, part)
        return stage

    def update(self, state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        """One gradient step with draws of its own."""
        return self.update_parts(state, batch, self.draw(key, batch))

    def settings(self) -> Mapping[str, Any]:
        """The settings that training depends on."""
        skip = {"steps"} | REWARD_SETTINGS | self.idle() | neutral(self.config)
        skip |= marked(self.config, Test) | marked(self.config, Explore)
        return {name: value for name, value in asdict(self.config).items() if name not in skip}

    @property
    def sample(self) -> Sampling:
        """How batches are drawn: rows, or windows of consecutive ones where actions come in chunks or rewards in n; in
        tasks of goals with goals for a critic."""
        base, goals = self._rows, self.spec.goals
        return base if goals is None else goals.seen_by_critic(base, self.config.discount)

    @property
    def policy_sample(self) -> Sampling:
        """As `sample`, for a stage that trains what acts and no critic: with a policy's goals."""
        base, goals = self._rows, self.spec.goals
        return base if goals is None else goals.seen_by_policy(base, self.config.discount)

    @property
    def _rows(self) -> Rows | Windows:
        c = self.config
        windows = isinstance(c, ControlConfig) and c.window > 1
        return Windows(c.window, c.chunk, c.discount) if windows else ROWS

    def evaluation(self, episodes: int, judge: str) -> tuple[Any, ...]:
        """Stages that carry out the evaluation at so many episodes, where its pieces are worth keeping and sharing;
        none where the policy acts in an environment."""
        del episodes, judge
        return ()

    def candidates(self, state: State, obs: Array, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        """The actions `[b, n, a]` that `act` chooses among, and which of them are in play, `[b, n]` bool."""
        raise NotImplementedError

    def choose(self, state: State, obs: Array, candidates: Array, valid: Array, key: Key) -> Array:
        """The action `[b, a]` taken among `candidates`; by default the first."""
        del state, obs, valid, key
        return candidates[:, 0]

    def act(self, state: State, obs: Array, key: Key, knobs: Knobs) -> Array:
        """Actions `[b, a]` in [-1, 1] for observations `[b, o]`. `key` is consumed."""
        candidates_key, choose_key = act_keys(key)
        candidates, valid = self.candidates(state, obs, candidates_key, knobs)
        return self.choose(state, obs, candidates, valid, choose_key)

    # offline to online

    def online(self) -> Stage | None:
        """The stage that goes on, from the parts as `stages` leave them, while the method gathers transitions itself;
        None: there is no rule for that. Its `config` covers how the method explores, too; how many steps it has is for
        the harness to say. Its batches have the columns of `fields` and no others."""
        return self.online_stage()

    def online_stage(self, **changes: Any) -> Stage:
        """A stage of the parts gone on with: what was fitted in closed form stays as the dataset had it. In `config`
        the grids of knobs give way to the setting that explores."""
        skip = {"steps"} | REWARD_SETTINGS | neutral(self.config) | {knob.setting for knob in self.inference}
        config = {name: value for name, value in asdict(self.config).items() if name not in skip}
        config["explores_by"] = dict(self.explorer.knobs[0])
        return self.stage("online", **{"config": config, **changes})._replace(complete=None)

    @property
    def explorer(self) -> Method:
        """The method whose first knob setting is how this one acts when it explores; by default itself."""
        return self

    def explore(self, state: State, obs: Array, key: Key) -> Array:
        """Actions `[b, a]` in [-1, 1] to gather transitions by, at observations `[b, o]`. `key` is consumed."""
        import jax
        import jax.numpy as jnp

        explorer = self.explorer
        rows = len(jax.tree.leaves(obs)[0])
        knobs = {name: jnp.full(rows, value, jnp.float32) for name, value in explorer.knobs[0].items()}
        return explorer.act(state, obs, key, knobs)

    @property
    def exploring(self) -> frozenset[str]:
        """Settings that have a bearing on exploring alone."""
        return marked(self.config, Explore)

    def having(self, **settings: Any) -> Self:
        """The method with some settings changed."""
        return replace(self, config=replace(self.config, **settings))


def part_key(key: Key, name: str) -> Key:
    """The key of a part or stage, from the seed's key and its name alone: the same whichever method asks."""
    import jax

    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def act_keys(key: Key) -> tuple[Key, Key]:
    """The two keys that `Method.act` makes of its own: for `candidates`, and for `choose`."""
    import jax

    candidates_key, choose_key = jax.random.split(key)
    return candidates_key, choose_key
