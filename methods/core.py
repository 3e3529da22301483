"""The contract every method fulfils: stages that train named parts of a state, and a way to act.

This file imports nothing but the standard library and the ground floor, so that tasks and simulator processes can
name a `TaskSpec` without loading JAX.

Reading order for newcomers: this file, `learner.py`, `vgf.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from numbers import Real
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Self,
    get_args,
    get_origin,
    get_type_hints,
)

from core.errors import Absent, BadInput
from methods.inference import Cost, Knob

if TYPE_CHECKING:
    import jax

    Array = jax.Array
else:
    Array = Any

__all__ = ["Absent", "Array", "BadInput", "Batch", "Columns", "Count", "Fraction", "Key", "Knobs", "Method",
           "MethodConfig", "Metrics", "Moves", "PositiveFloat", "PositiveInt", "Repeats", "Stage", "State", "Static",
           "Switch", "TaskSpec", "Weight", "act_keys", "is_on", "leaves", "structure"]  # fmt: skip

Key = Array
"""A typed JAX PRNG key (`jax.random.key`)."""

State = dict[str, Any]
"""Part name -> pytree. Parts are what stages train and what artefacts store: "behavior", "critic", "actor"."""

Batch = Mapping[str, Array]
"""Column name -> `[b, ...]`. Always: observations `[b, o]`, actions `[b, a]`, rewards `[b]`, masks `[b]`
(0 where the episode truly ended), next_observations `[b, o]`. On request (`Method.fields`): terminals `[b]` (1 at the
last transition of its episode) and next_actions `[b, a]` (of the same episode; 0 where there is none)."""

Columns = Mapping[str, Array]
"""The same columns for a whole dataset: `[t, ...]`."""

Metrics = dict[str, Array]
"""Scalars that an update reports, named `<part>/<quantity>`."""

Knobs = Mapping[str, Array]
"""Test-time settings, one value a row: name -> `[b]`. `{}` for methods that have none."""


PositiveInt = Annotated[int, "positive"]
PositiveFloat = Annotated[float, "positive"]
Count = Annotated[int, "not negative"]
Repeats = Annotated[int, "from 1 to 100,000"]
"""Of what is done or drawn so many times for one action: more is a slip of the keyboard."""
Moves = Annotated[int, "from 0 to 100,000"]
"""The same where none is a choice, too."""
Weight = Annotated[float, "not negative"]
Fraction = Annotated[float, "within [0, 1]"]
Order = Literal["simultaneous", "sequential"]
"""Of the parts of an update: each learns from the others as they were, or from what has been updated before it."""


class Static:
    """In a float setting's type, `Annotated[Fraction, Static]`: it shapes the program. Without a mark it is a leaf."""


class Switch:
    """In a float setting's type: 0 turns something off, which shapes the program; any other value is a leaf."""


@dataclass(frozen=True)
class TaskSpec:
    """What a method may know of a task."""

    obs_dim: int
    action_dim: int  # actions live in [-1, 1]^action_dim
    horizon: int  # longest episode, in environment steps


@dataclass(frozen=True)
class MethodConfig:
    """Settings every method shares. Those that are floats are leaves: one compiled program serves all their values,
    unless their type says otherwise (`Static`, `Switch`)."""

    steps: PositiveInt = 1_000_000  # gradient steps of the method's own stage
    batch_size: PositiveInt = 256  # transitions a step
    learning_rate: PositiveFloat = 3e-4  # Adam, every network
    discount: Fraction = 0.99  # gamma of the TD target
    tau: Fraction = 0.005  # Polyak rate of target networks
    hidden_dims: tuple[PositiveInt, ...] = (512, 512, 512, 512)  # every network


@dataclass(frozen=True)
class ControlConfig(MethodConfig):
    """Settings that every method which acts in an environment shares: it learns from reward_scale r + reward_shift."""

    rewards: Literal["task", "raw"] = "task"  # r: after the task's own transform, or the environment's own
    reward_scale: PositiveFloat = 1.0
    reward_shift: float = 0.0


REWARD_SETTINGS = frozenset({"rewards", "reward_scale", "reward_shift"})


@cache
def _floats(settings: type[MethodConfig]) -> Mapping[str, bool]:
    """The float settings that a class of them has for updates and policies, name -> whether it is a `Switch`. Those of
    rewards are not among them: batches come with the rewards that the method learns from."""
    found = {}
    for name, hint in get_type_hints(settings, include_extras=True).items():
        base, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if base is float and Static not in marks and name not in REWARD_SETTINGS:
            found[name] = Switch in marks
    return found


def is_on(value: float) -> bool:
    """Whether a `Switch` is on. A traced one is: where it is 0, that is part of the structure."""
    return not isinstance(value, Real) or value != 0


def leaves(config: MethodConfig) -> dict[str, float]:
    """The settings that shape no program, in the order of the class: `method.having(**leaves)` may be given traced
    scalars of the computation's precision in their place, inside `jax.jit` and `jax.vmap`. Configurations of equal
    `structure` have the same leaves."""
    kind: Any = type(config)  # which mypy takes for unhashable
    values = {name: (getattr(config, name), switch) for name, switch in _floats(kind).items()}
    return {name: value for name, (value, switch) in values.items() if not switch or is_on(value)}


def structure(config: MethodConfig) -> Hashable:
    """The settings that shape the program: all but `leaves` and those of rewards, which are the batches' business.
    Methods of one class with equal structures (and specs) can share one."""
    beside = leaves(config).keys() | REWARD_SETTINGS
    values = ((field.name, getattr(config, field.name)) for field in fields(config))
    return type(config), tuple((name, value) for name, value in values if name not in beside)


class Rewards(NamedTuple):
    """What a method learns from, offline and online alike: scale r + shift. Scores are always of the environment's own
    rewards."""

    base: str = "task"  # r: after the task's own transform ("task"), or the environment's own ("raw")
    scale: float = 1.0
    shift: float = 0.0


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
    Called with a chunk of at most a few thousand transitions, so it must treat rows independently."""
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


@dataclass(frozen=True)
class Method:
    """Base of every method: its settings and the task it is bound to. Subclasses are frozen dataclasses too."""

    config: Any
    spec: TaskSpec
    name: ClassVar[str] = ""
    greedy: ClassVar[bool] = False  # whether it acts without randomness
    Config: ClassVar[type[MethodConfig]]  # the class of `config`
    inference: ClassVar[tuple[Knob, ...]] = ()  # what the names in `knobs` are

    @property
    def fields(self) -> frozenset[str]:
        """Batch columns the updates read."""
        return frozenset({"observations", "actions", "rewards", "masks", "next_observations"})

    @property
    def knobs(self) -> tuple[Mapping[str, float], ...]:
        """Test-time settings to evaluate, e.g. `({"L_test": 0}, {"L_test": 1})`; `({},)` when there are none. Each name
        is declared in `inference`."""
        return ({},)

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
        return Rewards(c.rewards, c.reward_scale, c.reward_shift)

    def init(self, key: Key) -> State:
        """Fresh parts, each a function of `key` and its own name alone, so that a part trained by another
        method from the same key and settings is the same part. `key` is consumed."""
        raise NotImplementedError

    def stages(self) -> tuple[Stage, ...]:
        """The stages in the order they run."""
        raise NotImplementedError

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
        return None

    @property
    def explorer(self) -> Method:
        """The method whose first knob setting is how this one acts when it explores; by default itself."""
        return self

    def explore(self, state: State, obs: Array, key: Key) -> Array:
        """Actions `[b, a]` in [-1, 1] to gather transitions by, at observations `[b, o]`. `key` is consumed."""
        import jax.numpy as jnp

        explorer = self.explorer
        knobs = {name: jnp.full(obs.shape[0], value, jnp.float32) for name, value in explorer.knobs[0].items()}
        return explorer.act(state, obs, key, knobs)

    @property
    def exploring(self) -> frozenset[str]:
        """Settings that have a bearing on exploring alone: those named `explore_...`."""
        return frozenset(field.name for field in fields(self.config) if field.name.startswith("explore_"))

    def having(self, **settings: Any) -> Self:
        """The method with some settings changed."""
        return replace(self, config=replace(self.config, **settings))


def act_keys(key: Key) -> tuple[Key, Key]:
    """The two keys that `Method.act` makes of its own: for `candidates`, and for `choose`."""
    import jax

    candidates_key, choose_key = jax.random.split(key)
    return candidates_key, choose_key
