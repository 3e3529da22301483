"""Settings: their types, which say what may stand there, when a setting matters, and whether it shapes a program."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from numbers import Real
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from core.errors import BadInput

PositiveInt = Annotated[int, "positive"]
PositiveFloat = Annotated[float, "positive"]
Count = Annotated[int, "0 or more"]
Repeats = Annotated[int, "from 1 to 100,000"]
"""Of what is done or drawn so many times for one action: more is a slip of the keyboard."""
Moves = Annotated[int, "from 0 to 100,000"]
"""The same where none is a choice, too."""
Weight = Annotated[float, "0 or more"]
Fraction = Annotated[float, "within [0, 1]"]
Order = Literal["simultaneous", "sequential"]
"""Of the parts of an update: each learns from the others as they were, or from what has been updated before it."""


class Static:
    """In a float setting's type, `Annotated[Fraction, Static]`: it shapes the program. Without a mark it is a leaf."""


class Switch:
    """In a float setting's type: 0 turns something off, which shapes the program; any other value is a leaf."""


class Test:
    """In a setting's type: it matters at test time alone. A change retrains nothing."""

    __test__ = False  # for pytest, which takes the name for its own


class Explore:
    """In a setting's type: it matters online alone, most often to how the method explores."""


class Added:
    """In a setting's type: it came later than the others, and at its default all is as it was before it. So a default
    is left out of identities, and what was trained before is the same work today."""


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

    rewards: Literal["task", "raw", "sparse"] = "task"  # r: after the task's own transform, the environment's own, or
    # -1 until the task is solved (of tasks that count what is unsolved)
    reward_scale: PositiveFloat = 1.0
    reward_shift: float = 0.0
    masks: Annotated[Literal["task", "trajectory"], Added] = "task"  # what stops the bootstrap: the end of the task, or
    # that of the trajectory, a time limit included (QGF's loader of large data)
    chunk: Annotated[Repeats, Added] = 1  # h: actions chosen at once, and executed open loop
    n_step: Annotated[Repeats, Added] = 1  # rewards before the bootstrap; at least h, so 1 stands for h
    chunk_mask: Annotated[Literal["window", "step", "none"], Added] = "window"  # which chunks are imitated that cross
    # an episode's end: none (QAM), their steps before it (QC), or whole (QGF)
    precision: Annotated[Literal["float32", "bfloat16"], Added] = "float32"  # of matrix products; sums are float32

    def __post_init__(self) -> None:
        """Raises: BadInput."""
        if 1 < self.n_step < self.chunk:
            raise BadInput(f"n_step={self.n_step} is less than chunk={self.chunk}: values go on where a chunk ends at "
                           "the earliest; n_step=1 stands for that")  # fmt: skip

    @property
    def window(self) -> int:
        """Consecutive transitions that one sample of a batch is made of."""
        return max(self.chunk, self.n_step)


REWARD_SETTINGS = frozenset({"rewards", "reward_scale", "reward_shift", "masks"})


class Rewards(NamedTuple):
    """What a method learns from, offline and online alike: scale r + shift, up to what stops the bootstrap."""

    base: str = "task"  # r: "task" | "raw" | "sparse"
    scale: float = 1.0
    shift: float = 0.0
    masks: str = "task"  # "task" | "trajectory"


@cache
def marks(settings: Hashable) -> Mapping[str, tuple[Any, ...]]:
    """Setting -> its bare type, then the marks of its type."""
    hints = get_type_hints(settings, include_extras=True)
    return {name: get_args(hint) if get_origin(hint) is Annotated else (hint,) for name, hint in hints.items()}


def marked(config: MethodConfig, mark: type) -> frozenset[str]:
    """The settings whose type bears a mark."""
    kind: Any = type(config)  # which mypy takes for unhashable
    return frozenset(name for name, (_, *found) in marks(kind).items() if mark in found)


def neutral(config: MethodConfig) -> frozenset[str]:
    """The settings that came later (`Added`) and change nothing as the others stand: those at their default, and those
    of what is not used."""
    values = {field.name: (getattr(config, field.name), field.default) for field in fields(config)}
    added = {name: values[name] for name in marked(config, Added)}
    known = {name: pair for name, pair in added.items() if type(pair[0]) is type(pair[1])}  # not those that are traced
    unused = {name for name, (value, default) in known.items() if value == default}
    if isinstance(config, ControlConfig):
        unused |= {"chunk_mask"} if config.chunk == 1 else set()
        unused |= {"n_step"} if config.n_step == config.window == config.chunk else set()
    if "mean_minus_std" not in (value for value, _ in values.values() if isinstance(value, str)):
        unused |= {"rho"}
    if values.get("gradient", ("after",))[0] != "after":
        unused |= {name for name in added if name.startswith("after_")}
    if values.get("critic", ("td",))[0] != "floq":
        unused |= {name for name in added if name.startswith("floq_")}
    if values.get("behavior_weighting", ("none",))[0] == "none":
        unused |= {name for name in added if name.startswith("weighting_")}
    return frozenset(unused & added.keys())


@cache
def _floats(settings: Hashable) -> Mapping[str, bool]:
    """The float settings that a class of them has for updates and policies, name -> whether it is a `Switch`. Those of
    rewards are not among them: batches come with the rewards that the method learns from."""
    found = marks(settings).items()
    return {name: Switch in rest for name, (base, *rest) in found
            if base is float and Static not in rest and name not in REWARD_SETTINGS}  # fmt: skip


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
