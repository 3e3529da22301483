"""The replay buffer of the online phase, on the device.

    d0 d1 d2 d3 ... | o0 o1 o2 o3     the dataset's transitions, then those that a seed gathered since
             [ -- capacity -- ]       the last of that sequence are in the buffer, each as likely to be drawn

So the newest push out the oldest, the dataset's first. The dataset is one block for all seeds, `[t, ...]`; what each
seed gathers is a block of its own, `[s, size, ...]`, written round and round where size is less than what is gathered.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from methods.core import Array, Columns
from methods.sampling import Pick


def empty(columns: Columns, seeds: int, size: int) -> dict[str, Array]:
    """The seeds' own blocks `[s, size, ...]` before anything is gathered, for the columns of a dataset."""
    return {name: jnp.zeros((seeds, size, *column.shape[1:]), column.dtype) for name, column in columns.items()}


def insert(own: Columns, row: Mapping[str, Array], starts: Array, number: Array) -> dict[str, Array]:
    """Adds a transition of every seed to their blocks.

    The newest transition is the last of its episode until another comes: its `terminals` is 1 and its `next_actions` 0,
    and the one that comes mends both. Whatever is in the buffer can therefore be drawn, and an episode that is broken
    off ends where it broke.

    Args:
      own: `[s, size, ...]`.
      row: the transitions, `[s, ...]`; "terminals" and "next_actions" are not among them.
      starts: `[s]` bool, whether each is the first of its episode.
      number: how many each seed gathered before; may be traced.
    """
    size, blocks = next(iter(own.values())).shape[1], dict(own)
    place, before = number % size, (number - 1) % size
    follows = {"terminals": jnp.zeros_like(row["rewards"]), "next_actions": row["actions"]}
    newest = {"terminals": jnp.ones_like(row["rewards"]), "next_actions": jnp.zeros_like(row["actions"])}
    for name in follows.keys() & own.keys():
        last = jax.lax.dynamic_index_in_dim(blocks[name], before, axis=1, keepdims=False)
        mended = jnp.where(jnp.reshape(starts, (-1,) + (1,) * (last.ndim - 1)), last, follows[name])
        blocks[name] = _put(blocks[name], mended, before)
    return {name: _put(block, row[name] if name in row else newest[name], place) for name, block in blocks.items()}


def _put(block: Array, values: Array, place: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(block, values[:, None], place, axis=1)


def held(columns: Columns, own: Columns, *, gathered: Array, capacity: int) -> tuple[Pick, Array]:
    """What gives one seed's transitions by their place in the buffer, oldest first, and how many it holds.

    Args:
      columns: the dataset's, `[t, ...]`; own: this seed's block, `[size, ...]`.
      gathered: how many transitions were inserted so far; may be traced.
      capacity: the most transitions that the buffer holds.
    """
    offline, size = len(next(iter(columns.values()))), len(next(iter(own.values())))
    count = jnp.minimum(offline + gathered, capacity)

    def pick(places: Array) -> dict[str, Array]:
        place = offline + gathered - count + places
        old, new = jnp.minimum(place, offline - 1), jnp.maximum(place - offline, 0) % size

        def column(name: str) -> Array:
            ours, theirs = own[name][new], columns[name][old]
            early = jnp.reshape(place < offline, place.shape + (1,) * (ours.ndim - place.ndim))
            return jnp.where(early, theirs, ours)

        return {name: column(name) for name in columns}

    return pick, count
