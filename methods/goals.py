"""Goal-relabelled rows: what a transition says of reaching states that the data hold.

In a task of goals (`TaskSpec.goals`) a method's code does not mention them: an observation is a goal and a state, one
after the other, and `Relabelled` draws it so. A method with goals of its own asks for `Goals` by its stage's `sample`,
and makes one observation of both, a pytree: `{"goal": batch["value_goals"], "state": batch["observations"]}`
(`networks.features`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from core.errors import BadInput
from methods.sampling import Pick, Rows, Windows, starts

if TYPE_CHECKING:
    import jax

    Array = jax.Array
else:
    Array = Any


@dataclass(frozen=True)
class GoalLaw:
    """Where a row's goal is drawn from: the row itself, a later one of its trajectory, or any row of the data.

    A later row is uniform among those that follow, or k >= 1 rows ahead with probability (1 - gamma) gamma^(k - 1),
    at most at the trajectory's last. The last row has none after it, and is its own.
    """

    current: float
    future: float
    random: float
    geometric: bool = False

    def __post_init__(self) -> None:
        """Raises: BadInput."""
        shares = (self.current, self.future, self.random)
        if min(shares) < 0.0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
            raise BadInput(f"goals: current, future, random = {', '.join(map(str, shares))} are no probabilities")

    def check(self, discount: Any) -> None:
        """Raises: BadInput: a geometric law needs gamma < 1 (where it is known, not traced)."""
        if self.geometric and isinstance(discount, Real) and not 0.0 <= float(discount) < 1.0:
            raise BadInput(f"goals: a geometric law needs a discount below 1, not {discount}")

    def places(self, start: Array, remaining: Array, held: Array | int, discount: Any, key: Array) -> Array:
        """The goals' places `[b]` of rows at `start` `[b]` that so many rows of their trajectory follow. `key` is
        consumed."""
        import jax
        import jax.numpy as jnp

        which_key, ahead_key, any_key = jax.random.split(key, 3)
        if self.geometric:
            ahead = jax.random.geometric(ahead_key, 1.0 - discount, start.shape)
        else:
            ahead = 1 + jax.random.randint(ahead_key, start.shape, 0, jnp.maximum(remaining, 1))
        later = start + jnp.minimum(ahead, remaining)
        which = jax.random.uniform(which_key, start.shape)
        other = jnp.where(which < self.current + self.future, later, jax.random.randint(any_key, start.shape, 0, held))
        return jnp.where(which < self.current, start, other)


HINDSIGHT = GoalLaw(0.2, 0.5, 0.3)
"""Of value goals in the codes of horizon-reduction (with uniform later rows) and dqc."""
ACHIEVED = GoalLaw(0.0, 1.0, 0.0)
"""Of actor goals: later rows alone (the same codes, but for puzzles; CFGRL)."""


@dataclass(frozen=True)
class Goals:
    """Transitions, each as likely as any other, with a goal for the critic and one for the actor.

    Beside a row's columns the batch has

      value_goals, actor_goals `[b, g]`: the entries `dims` (None: all) of the column `goal` where the goal is;
      rewards `[b]`: 1 where the row is its value goal and else 0, or with "cost" 0 there and else -1;
      masks `[b]`: 0 where it is, so that reaching a goal ends the episode, and else 1; time limits do not.

    As with OGBench's own rewards a row is judged by the state acted in. "Where the row is": by its place, so that equal
    states elsewhere count as others (OGBench's `GCDataset`). The column `remaining` is a dataset's; a replay buffer,
    which learns an episode's end only when it comes, has none.
    """

    discount: Any  # gamma, of geometric laws; may be traced
    value: GoalLaw = HINDSIGHT
    actor: GoalLaw = ACHIEVED
    reward: Literal["reached", "cost"] = "reached"
    goal: str = "observations"  # the column that holds what a goal is, e.g. an oracle's short description of states
    dims: tuple[int, ...] | None = None
    length: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Raises: BadInput."""
        self.value.check(self.discount)
        self.actor.check(self.discount)

    online: ClassVar[bool] = False  # a buffer learns an episode's end only when it comes

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({"remaining", self.goal})

    def draw(self, pick: Pick, held: Array | int, key: Array, rows: int) -> dict[str, Array]:
        """See `methods.sampling.Sampling`. `key` is consumed."""
        import jax

        row_key, value_key, actor_key = jax.random.split(key, 3)
        start = jax.random.randint(row_key, (rows,), 0, held)
        remaining = pick(start)["remaining"]
        value = self.value.places(start, remaining, held, self.discount, value_key)
        actor = self.actor.places(start, remaining, held, self.discount, actor_key)
        return self.at(pick, start, value, actor)

    def at(self, pick: Pick, start: Array, value: Array, actor: Array) -> dict[str, Array]:
        """The rows at given places `[b]`, with their goals' places `[b]`."""
        row: Mapping[str, Array] = pick(start)
        reached = (start == value).astype(row["observations"].dtype)
        return {**row, "value_goals": self._goals(pick, value), "actor_goals": self._goals(pick, actor),
                "rewards": reached - float(self.reward == "cost"), "masks": 1.0 - reached}  # fmt: skip

    def _goals(self, pick: Pick, places: Array) -> Array:
        found = pick(places)[self.goal]
        return found if self.dims is None else found[:, list(self.dims)]


@dataclass(frozen=True)
class GoalRule:
    """How a task of goals relabels its data; a part of its spec."""

    value: GoalLaw = HINDSIGHT  # of the goals that critics learn for
    actor: GoalLaw = ACHIEVED  # of those that policies and behaviour samplers learn for
    reward: Literal["reached", "cost"] = "cost"  # see `Goals`

    def seen_by_critic(self, base: Rows | Windows, discount: Any) -> Relabelled:
        """What `base` draws, with goals for a critic."""
        return Relabelled(base, self.value, discount, self.reward)

    def seen_by_policy(self, base: Rows | Windows, discount: Any) -> Relabelled:
        """What `base` draws, with goals for what acts and learns from no rewards. gamma counts only where the law is
        geometric."""
        return Relabelled(base, self.actor, discount if self.actor.geometric else 0.0)


@dataclass(frozen=True)
class Relabelled:
    """Rows or windows, each with one goal, for a method whose code does not mention goals.

    The batch is the base's, but for

      observations, next_observations `[b, 2 o]`: the goal's observation, then the state's;
      rewards, masks: of each row as `Goals` has them, and 0 after the goal. Of windows they are then summed (and the
        least of them taken) as rewards are: a goal within a window ends the bootstrap.

    The goal's trajectory is the one of the first row. `valid` is of episodes alone: a window goes on after its goal.
    """

    base: Rows | Windows
    law: GoalLaw
    discount: Any  # gamma, of a geometric law; may be traced
    reward: Literal["reached", "cost"] = "cost"
    online: ClassVar[bool] = False  # a buffer learns an episode's end only when it comes

    def __post_init__(self) -> None:
        """Raises: BadInput."""
        self.law.check(self.discount)

    @property
    def length(self) -> int:
        return self.base.length

    @property
    def reads(self) -> frozenset[str]:
        return self.base.reads | {"remaining", "observations"}

    def draw(self, pick: Pick, held: Array | int, key: Array, rows: int) -> dict[str, Array]:
        """See `methods.sampling.Sampling`. `key` is consumed."""
        import jax

        row_key, goal_key = jax.random.split(key)
        start = starts(self, held, row_key, rows)
        goal = self.law.places(start, pick(start)["remaining"], held, self.discount, goal_key)
        return self.at(pick, held, start, goal)

    def at(self, pick: Pick, held: Array | int, start: Array, goal: Array) -> dict[str, Array]:
        """The samples that begin at given places `[b]`, with their goals' places `[b]`."""
        import jax.numpy as jnp

        ahead = jnp.where(goal >= start, goal - start, held)  # rows until it is reached; never of one that lies before

        def rewarded(places: Array) -> dict[str, Array]:
            row = dict(pick(places))
            gone = places - start.reshape(-1, *[1] * (places.ndim - 1))
            left = ahead.reshape(-1, *[1] * (places.ndim - 1)) - gone
            now = (left == 0).astype(row["observations"].dtype)
            row["rewards"] = jnp.where(left < 0, 0.0, now - float(self.reward == "cost"))
            row["masks"] = jnp.where(left < 0, 0.0, 1.0 - now)
            return row

        batch = self.base.at(rewarded, held, start)
        seen = pick(goal)["observations"]
        for name in {"observations", "next_observations"} & batch.keys():
            batch[name] = jnp.concatenate([seen, batch[name]], axis=-1)
        return batch
