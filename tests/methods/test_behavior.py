"""Samplers of the behaviour policy: losses by hand, Euler steps, the bank of actions, and where parts are trained."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import methods
from methods.core import BadInput
from methods.samplers import FlowDraws, FlowSampler, GaussianSampler
from tests.methods.common import make, make_batch, random_state

FLOW = FlowSampler(action_dim=2, hidden_dims=(8,), steps=4)


def constant_field(velocity: list[float]) -> dict:
    """Parameters of a flow whose velocity is this everywhere."""
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(lambda k: FLOW.init(k, 3), jax.random.key(0))
    )
    zeros["params"]["MLP_0"]["Dense_1"]["bias"] = jnp.array(velocity)
    return zeros


def test_flow_loss_by_hand() -> None:
    """Velocity (1, 2) against actions - start = (1, -1) and (0, 1): ((0 + 9) + (1 + 1)) / 4 = 2.75."""
    draws = FlowDraws(jnp.array([[0.0, 1.0], [0.5, -1.0]]), jnp.array([[0.1], [0.9]]))
    actions = jnp.array([[1.0, 0.0], [0.5, 0.0]])
    assert FLOW.loss(constant_field([1.0, 2.0]), jnp.zeros((2, 3)), actions, draws) == pytest.approx(2.75)


def test_flow_samples_by_euler_steps_and_clips() -> None:
    """A constant velocity carries noise by itself, whatever the number of steps; actions end in the box."""
    noise = jnp.array([[0.0, 0.3], [-0.5, -3.0]])
    sample = FLOW.sample(constant_field([0.25, 0.5]), jnp.zeros((2, 3)), noise)
    np.testing.assert_allclose(sample, [[0.25, 0.8], [-0.25, -1.0]], atol=1e-6)  # float32


def test_flow_draws_are_normal_and_uniform() -> None:
    start, time = FLOW.draw(jax.random.key(0), 4000)
    assert start.shape == (4000, 2) and time.shape == (4000, 1)
    # five standard errors: of a mean of 8000 normals, of their variance (sqrt(2/n)), of a mean of 4000 uniforms
    assert abs(start.mean()) < 5 / np.sqrt(8000) and abs(start.var() - 1) < 5 * np.sqrt(2 / 8000)
    assert abs(time.mean() - 0.5) < 5 * np.sqrt(1 / 12 / 4000) and 0.0 <= time.min() < time.max() < 1.0
    assert abs(np.corrcoef(start[:, 0], time[:, 0])[0, 1]) < 5 / np.sqrt(4000)


def test_gaussian_likelihood_by_hand() -> None:
    """Mean (0, 0), deviations (1, e): -log p of (1, e) is 2 * 0.918939 + 1 + (1 + 1) / 2 = 3.837877."""
    sampler = GaussianSampler(action_dim=2, hidden_dims=(8,))
    params = sampler.init(jax.random.key(0), 3)
    params = jax.tree.map(jnp.zeros_like, params)
    params["params"]["log_std"] = jnp.array([0.0, 1.0])
    loss = sampler.loss(params, jnp.zeros((1, 3)), jnp.array([[1.0, np.e]]), ())
    assert loss == pytest.approx(3.837877, abs=1e-5)  # float32
    sample = sampler.sample(params, jnp.zeros((1, 3)), jnp.array([[0.5, -0.1]]))
    np.testing.assert_allclose(sample, [[0.5, -0.1 * np.e]], atol=1e-6)


def test_bank_holds_behaviour_actions_of_the_next_state() -> None:
    method = make("best_of_n", behavior="pretrained", bank=6, n_particles=4)
    state, columns = random_state(method), make_batch(9)
    prepare = method.stages()[1].prepare
    bank = prepare(state, columns, jax.random.key(1))["bank"]
    assert bank.shape == (9, 6, 2)
    proposed = method.behavior.propose(state["behavior"], columns["next_observations"], jax.random.key(1), 6)
    np.testing.assert_array_equal(bank, proposed)

    batch = {**columns, "bank": bank}
    places = np.asarray(method.draw(jax.random.key(2), batch))
    assert places.shape == (9, 4) and all(len(set(row)) == 4 for row in places.tolist())  # without replacement
    chosen = method.behavior.propose_next(state["behavior"], batch, places)
    for row in range(9):
        np.testing.assert_array_equal(chosen[row], bank[row][places[row]])


def test_bank_places_are_uniform() -> None:
    """Each of 5 places is among 3 drawn with probability 3/5, in 2000 rows; with more than there are, 1/5 a draw."""
    method = make("best_of_n", behavior="pretrained", bank=5, n_particles=3)
    batch = {"actions": jnp.zeros((2000, 2)), "bank": jnp.zeros((2000, 5, 2))}
    few = np.bincount(np.asarray(method.draw(jax.random.key(0), batch)).ravel(), minlength=5) / 2000
    assert np.abs(few - 0.6).max() < 5 * np.sqrt(0.6 * 0.4 / 2000)  # five standard errors
    many = np.bincount(np.asarray(method.behavior.draw_next(jax.random.key(0), batch, 8)).ravel(), minlength=5) / 16000
    assert np.abs(many - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / 16000)


def test_a_bank_needs_a_sampler_that_stays() -> None:
    with pytest.raises(BadInput, match=r"^vgf\.bank=4 needs behavior=pretrained"):
        make("vgf", bank=4).stages()


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"'vfg'.*did you mean 'vgf'"):
        methods.get("vfg")
    with pytest.raises(BadInput, match=r"valid: avgf, bc, bc_gaussian, .*, vgf, vgf_qgf"):
        methods.get("zzzzzz")
    many = [f"task-{number}" for number in range(100)]
    assert methods.nearest("zzzzzz", many).endswith("task-29, and 70 more (--list)")


@pytest.mark.parametrize("name", ["vgf", "avgf", "fql", "best_of_n"])
def test_stages_of_joint_and_pretrained(name: str) -> None:
    joint, pretrained = make(name), make(name, behavior="pretrained", behavior_steps=7, steps=3)
    (stage,) = joint.stages()
    assert stage.trains == set(joint.parts) and not stage.reads
    behavior, own = pretrained.stages()
    assert (behavior.trains, behavior.steps, own.steps) == ({"behavior"}, 7, 3)
    assert own.trains == set(pretrained.parts) - {"behavior"} and own.reads == {"behavior"}


def test_stages_share_what_is_the_same_work() -> None:
    """One pretrained sampler for vgf, best_of_n and fql with the same network; one critic for vgf at L = 0 and
    best_of_n; never one for FQL or another L."""

    def identity(name: str, stage: int = 0, **settings: Any) -> tuple:
        made = make(name, **settings).stages()[stage]
        return made.trains, made.reads, made.rule, made.config

    how = {"behavior": "pretrained", "sampler_activation": "gelu"}
    assert identity("vgf", **how) == identity("best_of_n", **how) == identity("fql", **how)
    assert identity("vgf", **how) != identity("avgf", **how)  # clips its gradients
    assert identity("vgf", 1, **how) != identity("fql", 1, **how)

    assert identity("vgf", train_flow_steps=0) == identity("best_of_n")
    assert identity("vgf", train_flow_steps=0, step_size=0.7) == identity("best_of_n", test_n=(3,))
    assert identity("vgf") == identity("vgf", test_flow_steps=(9,), particle_select="uniform")
    assert identity("vgf") != identity("best_of_n")
    assert identity("vgf") != identity("vgf", step_size=0.7)
