"""What an update must do, counted from its program: operations of matrix products, and bytes that move at the least."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jax.interpreters.partial_eval import dce_jaxpr

from methods.core import Batch, Method, State

Shapes = Any
"""A pytree of `jax.ShapeDtypeStruct`."""


@dataclass(frozen=True)
class Device:
    """Peak rates of an accelerator, from its data sheet: dense, without sparsity."""

    flops: dict[str, float]  # matrix operations a second, by precision
    bytes_per_s: float  # of its memory


DEVICES = {
    # float32: of tensor cores in TF32, which JAX takes for float32 products there unless told otherwise
    "h100": Device({"float32": 494e12, "bfloat16": 989e12}, 3.35e12),  # NVIDIA H100 SXM
    "h200": Device({"float32": 494e12, "bfloat16": 989e12}, 4.8e12),  # NVIDIA H200 SXM
}


@dataclass(frozen=True)
class Work:
    """Of one update of one lane."""

    operations: float  # multiplications and additions in matrix products
    bytes: float  # what the update looks at read once, trained parts written once

    def floor(self, device: Device, precision: str) -> float:
        """The least seconds that an update takes there."""
        return max(self.operations / device.flops[precision], self.bytes / device.bytes_per_s)


def work(method: Method, number: int, batch: Shapes) -> Work:
    """Of the method's stage `number`, on batches of these shapes. With delayed updates, the mean over a period."""
    stage, key = method.stages()[number], jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(method.init, key)
    often = [(stage.update, 1.0 / stage.period)]
    often += [(stage.between, 1.0 - 1.0 / stage.period)] if stage.between else []
    operations, moved = 0.0, 0.0
    for update, share in often:
        found = _work(update, stage.trains, state, batch, key)
        operations, moved = operations + share * found.operations, moved + share * found.bytes
    return Work(operations, moved)


def pass_operations(method: Method, number: int) -> float:
    """Of one pass of a network of the method's size, from observations and actions to a value, on a batch of the stage
    `number`: the unit in which costs are counted by hand (docs/methods.md)."""
    sizes = (method.spec.obs_dim + method.spec.action_dim, *method.config.hidden_dims, 1)
    return 2.0 * method.stages()[number].batch_size * sum(a * b for a, b in itertools.pairwise(sizes))


def _work(update: Any, trains: frozenset[str], state: State, batch: Batch, key: Any) -> Work:
    def trained(state: State, batch: Batch, key: Any) -> Any:
        new, metrics = update(state, batch, key)
        return {name: new[name] for name in trains}, metrics

    program, outputs = jax.make_jaxpr(trained, return_shape=True)(state, batch, key)
    # a compiler leaves out what nobody asks for, too
    needed, used = dce_jaxpr(program.jaxpr, [True] * len(program.jaxpr.outvars))
    inputs = [leaf for leaf, read in zip(jax.tree.leaves((state, batch, key)), used, strict=True) if read]
    return Work(float(sum(_products(needed))), _bytes(inputs) + _bytes(outputs))


def _products(program: Any, times: int = 1) -> Iterator[float]:
    """Operations of every matrix product of a program, as often as it is done."""
    for equation in program.eqns:
        name, inside = equation.primitive.name, list(_inside(equation))
        if name == "dot_general":
            ((over, _), _), (left, _) = equation.params["dimension_numbers"], (v.aval for v in equation.invars)
            length = math.prod(left.shape[axis] for axis in over)
            yield 2.0 * times * length * math.prod(equation.outvars[0].aval.shape)
        elif name == "cond":
            yield max(sum(_products(branch, times)) for branch in inside)
        elif name == "while" and any(sum(_products(body)) for body in inside):
            raise ValueError("a loop of unknown length multiplies matrices")
        else:
            often = times * equation.params.get("length", 1) if name == "scan" else times
            for body in inside:
                yield from _products(body, often)


def _inside(equation: Any) -> Iterator[Any]:
    """The programs that an operation carries out."""
    for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda one: hasattr(one, "eqns")):
        if hasattr(value, "eqns"):
            yield getattr(value, "jaxpr", value)


def _bytes(shapes: Shapes) -> float:
    return float(sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)
                     if hasattr(leaf.dtype, "itemsize")))  # fmt: skip
