"""Matrix products in bfloat16: what is rounded, what is not, and that learning stays the same within its error."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from methods.core import TaskSpec
from methods.precision import product
from tests.methods.common import ROWS, SMALL, each, make, make_batch, per_row, random_state

EPSILON = 2.0**-8  # of a rounding to bfloat16, which has eight bits


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rounded(x: Any) -> np.ndarray:
    return np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)


def test_a_product_is_that_of_rounded_factors_summed_in_float32() -> None:
    """1 + 2^-9 rounds to 1; of 4096 products 2^-9 a sum in bfloat16 would lose what float32 keeps."""
    assert product(jnp.array([[1.0 + 2.0**-9]]), jnp.array([[3.0]])) == 3.0
    assert product(jnp.full((1, 4096), 2.0**-9), jnp.ones((4096, 1))) == 8.0
    x, kernel = normal(0, 5, 7, 96), normal(1, 96, 11)
    found = product(jnp.asarray(x), jnp.asarray(kernel))
    assert found.dtype == jnp.float32 and found.shape == (5, 7, 11)
    np.testing.assert_allclose(found, rounded(x) @ rounded(kernel), rtol=1e-5, atol=1e-5)
    assert np.abs(found - x @ kernel).max() > 1e-3


def test_its_derivative_rounds_likewise() -> None:
    x, kernel, g = normal(0, 4, 3, 6), normal(1, 6, 5), normal(2, 4, 3, 5)
    _, pull = jax.vjp(product, jnp.asarray(x), jnp.asarray(kernel))
    dx, dkernel = pull(jnp.asarray(g))
    np.testing.assert_allclose(dx, rounded(g) @ rounded(kernel).T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dkernel, np.einsum("abi,abj->ij", rounded(x), rounded(g)), rtol=1e-5, atol=1e-5)


def test_lanes_and_members_multiply_on_their_own() -> None:
    x, kernels = jnp.asarray(normal(0, 3, 4, 6)), jnp.asarray(normal(1, 3, 6, 5))
    together = jax.vmap(product)(x, kernels)
    for place in range(3):
        np.testing.assert_allclose(together[place], product(x[place], kernels[place]), rtol=1e-6)


@pytest.mark.parametrize("name", each(quick=("bc",)))
def test_updates_and_actions_stay_near_those_in_float32(name: str) -> None:
    """Losses within a few roundings of the products; parts keep their precision."""
    small = {"hidden_dims": (32, 32), **SMALL.get(name, {})}
    found = {}
    for precision in ("float32", "bfloat16"):
        method = make(name, precision=precision, **small)
        state, batch = random_state(method, scale=0.1), make_batch(ROWS)
        for stage in method.stages():
            data = {**batch, **(stage.prepare(state, batch, jax.random.key(1)) if stage.prepare else {})}
            state, more = stage.complete(state, data) if stage.complete else (state, {})
            new, metrics = jax.jit(stage.update)(state, {**data, **more}, jax.random.key(2))
            found.setdefault(stage.name, []).append(metrics)
            assert jax.tree.map(jnp.result_type, new) == jax.tree.map(jnp.result_type, state)
        knobs = per_row(method.knobs[-1], ROWS)
        acted = jax.jit(method.act)(state, jnp.asarray(batch["observations"]), jax.random.key(3), knobs)
        assert acted.dtype == jnp.float32 and np.abs(acted).max() <= 1.0
    losses = []
    for exact, rough in found.values():
        assert exact.keys() == rough.keys()
        losses += [(float(exact[metric]), float(rough[metric])) for metric in exact if metric.endswith("loss")]
    assert any(exact != rough for exact, rough in losses)
    for exact, rough in losses:
        assert rough == pytest.approx(exact, rel=30 * EPSILON, abs=30 * EPSILON)


def test_weights_are_rounded_once_an_update() -> None:
    """Not at every step of the flow: no loop of the compiled update of VGF rounds a kernel."""
    method = make("vgf", TaskSpec(3, 2, 1), hidden_dims=(24, 24), precision="bfloat16", n_particles=3)
    state, batch = random_state(method), {name: make_batch(ROWS)[name] for name in method.fields}
    text = jax.jit(method.stages()[0].update).lower(state, batch, jax.random.key(0)).compile().as_text()
    bodies = [
        part for part in text.split("\n\n") if re.match(r"\s*%?\S*(body|region)", part) and "while" not in part[:9]
    ]
    loops = [part for part in bodies if any(f"body=%{part.split()[0].lstrip('%')}" in text for _ in (0,))]
    assert loops, "the flow is a loop"
    for part in loops:
        assert not re.search(r"bf16\[(2,)?24,24\]\S* (convert|fusion)\(%?param", part)


@pytest.mark.parametrize("name", each())
def test_every_network_multiplies_in_bfloat16(name: str) -> None:
    """In every stage and in acting; what particles do with their kernel stays in float32."""
    method = make(name, precision="bfloat16", **SMALL.get(name, {}))
    state, batch, key = random_state(method), make_batch(ROWS), jax.random.key(0)
    programs = [jax.make_jaxpr(method.act)(state, batch["observations"], key, per_row(method.knobs[-1], ROWS))]
    for stage in method.stages():
        extra = {"returns": np.zeros(ROWS)}  # of SfBC's plan
        programs.append(jax.make_jaxpr(stage.update)(state, {**batch, **extra}, key))
    found = [equation for program in programs for equation in dots(program.jaxpr)]
    wide = [one for one in found if one.invars[0].aval.dtype != jnp.bfloat16]
    assert len(found) > len(wide)
    particles = {"vgf"}
    assert all(name in particles and one.invars[1].aval.shape[-1] == method.spec.action_dim for one in wide)


def dots(program: Any) -> list[Any]:
    """The matrix products of a program."""
    found = []
    for equation in program.eqns:
        found += [equation] if equation.primitive.name == "dot_general" else []
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda one: hasattr(one, "eqns")):
            found += dots(getattr(inner, "jaxpr", inner)) if hasattr(inner, "eqns") else []
    return found
