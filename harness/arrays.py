"""Pytrees of arrays in safetensors files: a tensor for each leaf, named by its part and its path in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from methods.core import BadInput, State

_BETWEEN = "/"  # of a part's name and a leaf's path


class ArrayFormat:
    """See `harness.store.Format`; writes pytrees, and reads arrays by path, of which `fitted` makes trees."""

    def write(self, path: Path, parts: Mapping[str, Any]) -> None:
        save_file({name: np.asarray(leaf, order="C") for name, leaf in _flat(parts).items()}, path)

    def read(self, path: Path) -> dict[str, dict[str, np.ndarray]]:
        parts: dict[str, dict[str, np.ndarray]] = {}
        for name, array in load_file(path).items():
            part, _, place = name.partition(_BETWEEN)
            parts.setdefault(part, {})[place] = array
        return parts

    def same(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        flat, other_flat = _flat(one), _flat(other)
        return flat.keys() == other_flat.keys() and all(
            flat[name].dtype == array.dtype and flat[name].tobytes() == array.tobytes()
            for name, array in other_flat.items()
        )


def _flat(parts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Leaves by name; of a part that was read they have their names already."""
    found: dict[str, np.ndarray] = {}
    for name, part in parts.items():
        named = isinstance(part, dict) and all(isinstance(leaf, np.ndarray) for leaf in part.values())
        leaves = part.items() if named else ((_place(path), leaf) for path, leaf in jax.tree.leaves_with_path(part))
        found |= {f"{name}{_BETWEEN}{place}": np.asarray(leaf) for place, leaf in leaves}
    return found


def _place(path: Sequence[Any]) -> str:
    return jax.tree_util.keystr(tuple(path), simple=True, separator=".")


def fitted(stored: Mapping[str, Mapping[str, np.ndarray]], like: State, where: str) -> State:
    """Parts that were read, as the pytrees of `like`, whose leaves say shapes and types.

    Raises:
      BadInput: a leaf is missing, or has another shape or type.
    """

    def find(part: str, path: Sequence[Any], leaf: Any) -> np.ndarray:
        place = _place(path)
        array = stored.get(part, {}).get(place)
        if array is None or array.shape != leaf.shape or array.dtype != leaf.dtype:
            found = "is not there" if array is None else f"is {array.dtype}{list(array.shape)}"
            raise BadInput(f"{where}: {part} {place} {found}, expected {np.dtype(leaf.dtype)}{list(leaf.shape)}; use "
                           f"--fresh to train anew")  # fmt: skip
        return array

    def fit(part: str, tree: Any) -> Any:
        return jax.tree.map_with_path(lambda path, leaf: find(part, path, leaf), tree)

    return {part: fit(part, tree) for part, tree in like.items()}


def stacked(states: Sequence[State]) -> State:
    """States of single lanes as one, `[l, ...]`, on the device."""
    return jax.tree.map(lambda *leaves: jax.numpy.asarray(np.stack(leaves)), *states)


def single(state: State, lane: int) -> State:
    """One lane's parts out of `[l, ...]`."""
    return jax.tree.map(lambda leaf: leaf[lane], state)
