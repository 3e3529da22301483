"""How a batch is drawn from transitions in order: single rows, or windows of consecutive ones.

A sampling sees transitions by their place, 0 .. held - 1, oldest first, whether they lie in a dataset or in a replay
buffer: `pick(places)` gives the columns there, `[*places.shape, ...]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import jax

    Array = jax.Array
else:
    Array = Any

Pick = Callable[[Array], Mapping[str, Array]]
"""Places -> the columns there."""


class Sampling(Protocol):
    """How a batch is drawn."""

    @property
    def online(self) -> bool:
        """Whether it can draw from a replay buffer, too."""

    @property
    def reads(self) -> frozenset[str]:
        """Columns that it looks at, whether the updates do or not."""

    @property
    def length(self) -> int:
        """Consecutive transitions that a sample is made of."""

    def draw(self, pick: Pick, held: Array | int, key: Array, rows: int) -> dict[str, Array]:
        """A batch of `rows` samples, with replacement, from `held` transitions (maybe traced). `key` is consumed."""


@dataclass(frozen=True)
class Rows:
    """Transitions, each as likely as any other."""

    online: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset()
    length: ClassVar[int] = 1

    def draw(self, pick: Pick, held: Array | int, key: Array, rows: int) -> dict[str, Array]:
        return self.at(pick, held, starts(self, held, key, rows))

    def at(self, pick: Pick, held: Array | int, start: Array) -> dict[str, Array]:
        """The transitions at given places `[b]`."""
        del held
        return dict(pick(start))


ROWS = Rows()


@dataclass(frozen=True)
class Windows:
    """`length` consecutive transitions, for action chunks and n-step returns (Q-chunking, arXiv 2507.07969).

    Any place may start a window, so one may cross an episode's end. From there on its rows are not `valid`, `[b,
    length]` (the first always is): their rewards do not count, and what follows the window is what followed the last
    valid row. What is held must be at least `length` transitions, the newest of which is the last of its episode.
    The batch has

      observations, and whatever else is of a row: the first row's;
      actions: of the first `chunk` rows, as they are, flattened step by step, `[b, chunk * a]`;
      rewards: sum_j gamma^j r_j over valid rows; masks: the least of the valid rows;
      next_observations, bank, terminals: the last valid row's;
      next_actions: the `chunk` actions after the window, `[b, chunk * a]`; where the episode does not have them all,
        they are 0 and `terminals` is 1.
    """

    length: int
    chunk: int
    discount: Any  # gamma; may be traced
    online: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset({"terminals"})

    def draw(self, pick: Pick, held: Array | int, key: Array, rows: int) -> dict[str, Array]:
        return self.at(pick, held, starts(self, held, key, rows))

    def at(self, pick: Pick, held: Array | int, start: Array) -> dict[str, Array]:
        """The windows that start at given places `[b]`."""
        import jax.numpy as jnp

        # a column that is read at one place of the window alone is gathered there alone
        window, first = pick(start[:, None] + jnp.arange(self.length)), pick(start)
        ended = jnp.cumsum(window["terminals"] > 0.0, axis=1)
        valid = jnp.concatenate([jnp.ones_like(ended[:, :1], bool), ended[:, :-1] == 0], axis=1)
        last = pick(start + jnp.sum(valid, axis=1) - 1)
        batch = {name: (last if name in SUCCESSORS else first)[name] for name in first}
        batch["valid"] = valid.astype(window["actions"].dtype)
        batch["actions"] = _flat(window["actions"][:, : self.chunk])
        if "rewards" in batch:
            gains = jnp.power(self.discount, jnp.arange(self.length)) * valid
            batch["rewards"] = jnp.sum(gains * window["rewards"], axis=1)
        if "masks" in batch:
            batch["masks"] = jnp.min(jnp.where(valid, window["masks"], 1.0), axis=1)
        if "next_actions" in batch:
            after = pick(jnp.minimum(start[:, None] + self.length + jnp.arange(self.chunk), held - 1))
            ends = jnp.concatenate([window["terminals"], after["terminals"][:, :-1]], axis=1)
            batch["terminals"] = jnp.max(ends, axis=1)
            batch["next_actions"] = jnp.where(batch["terminals"][:, None] > 0.0, 0.0, _flat(after["actions"]))
        return batch


def starts(sampling: Sampling, held: Array | int, key: Array, rows: int) -> Array:
    """Places `[b]` at which samples begin, each as likely as any other. `key` is consumed."""
    import jax

    return jax.random.randint(key, (rows,), 0, held - sampling.length + 1)


SUCCESSORS = frozenset({"next_observations", "next_actions", "terminals", "bank"})
"""Columns about what follows a row."""


def _flat(actions: Array) -> Array:
    return actions.reshape(len(actions), -1)
