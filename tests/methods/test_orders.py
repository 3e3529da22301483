"""Orders of updates, rates and averages in numbers worked out by hand, on networks of one or two units.

Adam's first moment after one step is a tenth of the gradient, and its first step is the learning rate, whatever the
gradient's size. The gradients here are of order 1, so that Adam's 1e-8 is lost in float32.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import methods
from methods.core import TaskSpec
from methods.learner import Learner
from methods.networks import DenoisingNetwork
from tests.methods.common import make, make_batch, per_row, random_state

ONE = TaskSpec(obs_dim=1, action_dim=1, horizon=1)
RATE, TAU = 0.1, 0.5


def layer(kernel: Any, bias: Any) -> dict[str, jax.Array]:
    return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}


def placed(learner: Learner, params: Any) -> Learner:
    """The learner with these parameters, in the target too, where it has one."""
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, learner.params)
    return learner._replace(params=params, target=learner.target and params)


def gradient(learner: Learner) -> Any:
    """The gradient of the only step so far."""
    return jax.tree.map(lambda first: 10.0 * first, optax.tree_utils.tree_get(learner.opt_state, "mu"))["params"]


def twins(*layers: Any) -> Any:
    """Two equal critics of these layers."""
    net = {f"Dense_{i}": jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), each) for i, each in enumerate(layers)}
    return {"params": {"VmapMLP_0": net}}


ROW = {"observations": [[1.0]], "actions": [[0.5]], "rewards": [2.0], "masks": [0.0], "next_observations": [[1.0]],
       "terminals": [1.0], "next_actions": [[0.0]]}  # fmt: skip
BATCH = {name: np.array(column, np.float32) for name, column in ROW.items()}


def td3_state(method: Any) -> Any:
    """Q(s, a) = max(a, 0), and pi(s) = tanh(v max(s, 0) + c) = 1/2 at s = 1, with c = 0."""
    state = random_state(method)
    critic = twins(layer([[0.0], [1.0]], [0.0]), layer([[1.0]], [0.0]))
    actor = {"MLP_0": {"Dense_0": layer([[1.0]], [0.0])}, "Dense_0": layer([[np.arctanh(0.5)]], [0.0])}
    unscaled = {"normalizer": {"mean": jnp.zeros(1), "std": jnp.ones(1)}} if "normalizer" in state else {}
    return {"critic": placed(state["critic"], critic), "actor": placed(state["actor"], {"params": actor}), **unscaled}


SLOPE = {"td3bc": 2.5, "rebrac": 1.0}  # weight of Q in the actor's loss


@pytest.mark.parametrize("name", ["td3bc", "rebrac"])
@pytest.mark.parametrize("order", ["simultaneous", "sequential"])
def test_whose_q_the_actor_maximises(name: str, order: str) -> None:
    """The data have a = 1/2, where the policy is, so that imitation pulls nowhere, and Q = 1/2 there is less than its
    target 2: every parameter of Q rises by 0.1, to Q(1, a) = 1.1 max(0.1 + 1.1 a + 0.1, 0) + 0.1. Of the policy's bias
    the loss has the slope -w Q'(1/2) / Q(1/2) (1 - 1/4), with Q' / Q = 1 / 0.5 before, and 1.21 / 0.925 after."""
    method = make(name, ONE, hidden_dims=(1,), activation="relu", critic_norm="none", learning_rate=RATE, tau=TAU,
                  order=order)  # fmt: skip
    state, _ = jax.jit(method.stages()[0].update)(td3_state(method), BATCH, jax.random.key(0))
    critic, actor = state["critic"], state["actor"]
    for leaf, start in zip(jax.tree.leaves(critic.params), (0.0, [[0.0], [1.0]], 0.0, 1.0), strict=True):
        np.testing.assert_allclose(leaf, np.broadcast_to(np.add(start, RATE), leaf.shape), rtol=1e-5)
    ratio = {"simultaneous": 1 / 0.5, "sequential": 1.21 / 0.925}[order]
    assert gradient(actor)["Dense_0"]["bias"][0] == pytest.approx(-SLOPE[name] * ratio * 0.75, rel=1e-5)
    # targets half way: to the parameters before the step, or after it; ReBRAC's actor lags in its own code
    behind = order == "simultaneous"
    expected = {"critic": 0.0 if behind else 0.05, "actor": 0.0 if behind or name == "rebrac" else 0.05}
    assert critic.target["params"]["VmapMLP_0"]["Dense_1"]["bias"][0, 0] == pytest.approx(expected["critic"], abs=1e-6)
    assert actor.target["params"]["Dense_0"]["bias"][0] == pytest.approx(expected["actor"], abs=1e-6)


def test_default_orders_are_those_of_the_codes() -> None:
    orders = {name: make(name).config.order for name in ("td3bc", "diffusion_ql", "ivr", "rebrac")}
    assert orders == {"td3bc": "sequential", "diffusion_ql": "sequential", "ivr": "sequential",
                      "rebrac": "simultaneous"}  # fmt: skip


@pytest.mark.parametrize(
    "name", ["td3bc", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rebrac", "diffusion_ql"))]
)
def test_rates_of_actor_and_critic(name: str) -> None:
    """Of Adam's first steps the largest is the rate; 0 is the common rate."""
    small = {"diffusion_steps": 1} if name == "diffusion_ql" else {}
    method = make(name, ONE, hidden_dims=(4,), actor_learning_rate=0.03, critic_learning_rate=0.002, **small)
    state = random_state(method)
    new, _ = jax.jit(method.stages()[0].update)(state, BATCH, jax.random.key(0))
    for part, rate in (("actor", 0.03), ("critic", 0.002)):
        moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), new[part].params, state[part].params)
        assert max(jax.tree.leaves(moved)) == pytest.approx(rate, rel=1e-3), part
    common = make(name, learning_rate=0.01)
    assert common.config.actor_rate == common.critic.learning_rate == 0.01


# IVR


def ivr_state(method: Any) -> Any:
    """V(s) = (1/2) max(x_1, 0) + (1/4) max(x_2, 0) with x the normalised (3, 1), which is (1, -1): 1/2 at s = 1.
    Q = 3/2 everywhere. The policy's mean is 0 and its deviation 1."""
    state, zeros = random_state(method), np.zeros((2, 2))
    value = {"Dense_0": layer([[2.0, 0.0]], [1.0, 1.0]), "Dense_1": layer([[0.5], [0.25]], [0.0]),
             "LayerNorm_0": {"scale": jnp.ones(2), "bias": jnp.zeros(2)}}  # fmt: skip
    actor = {"MLP_0": {"Dense_0": layer([[1.0, 1.0]], [0.0, 0.0])}, "Dense_0": layer(zeros[:, :1], [0.0])}
    return {
        "critic": placed(state["critic"], twins(layer(zeros, [1.0, 1.0]), layer(zeros[:, :1], [1.5]))),
        "value": placed(state["value"], {"params": {"MLP_0": value}}),
        "actor": placed(state["actor"], {"params": {"PolicyHead_0": actor, "log_std": jnp.zeros(1)}}),
    }


@pytest.mark.parametrize("order", ["simultaneous", "sequential"])
def test_ivr_steps_v_first(order: str) -> None:
    """u = Q - V = 1, so the loss (1 + u / 2)^2 + V has the slope -3/2 + 1 in V, which rises: the first unit's weight,
    scale and offset and the last offset each by 0.1, to 0.6 max(1.1 + 0.1, 0) + 0.1 = 0.82. Q's slope is
    2 (3/2 - V / 2) with the V of its order, and the policy's weight is 3/2 - V, at an action 1/2 from its mean."""
    method = make("ivr", ONE, hidden_dims=(2,), learning_rate=RATE, tau=TAU, discount=0.5, order=order)
    batch = {**BATCH, "rewards": np.zeros(1, np.float32), "masks": np.ones(1, np.float32)}
    state = ivr_state(method)
    forward = jax.jit(method.in_sample.value.network.apply)
    value = lambda state: forward(state["value"].params, jnp.ones((1, 1)))[0]  # noqa: E731
    assert value(state) == pytest.approx(0.5, rel=1e-5)  # 1e-6 in the variance
    new, _ = jax.jit(method.online().update)(state, batch, jax.random.key(0))
    assert value(new) == pytest.approx(0.82, rel=1e-5)
    seen = {"simultaneous": 0.5, "sequential": 0.82}[order]
    (slope, _) = gradient(new["critic"])["VmapMLP_0"]["Dense_1"]["bias"][:, 0]
    assert slope == pytest.approx(2 * (1.5 - 0.5 * seen), rel=1e-5)
    assert gradient(new["actor"])["PolicyHead_0"]["Dense_0"]["bias"][0] == pytest.approx(-(1.5 - seen) / 2, rel=1e-5)
    # offline the critic's stage is the same update
    alone, _ = jax.jit(method.stages()[0].update)(state, batch, jax.random.key(0))
    bias = alone["critic"].target["params"]["VmapMLP_0"]["Dense_1"]["bias"][0, 0]
    assert bias == pytest.approx(1.5 if order == "simultaneous" else 1.5 - TAU * RATE, rel=1e-6)


def test_ivr_starts_orthogonal() -> None:
    """Columns of every kernel, or its rows where it is wide, are at right angles and of length sqrt 2."""
    state = jax.jit(make("ivr", hidden_dims=(16, 8)).init)(jax.random.key(0))
    leaves = jax.tree.leaves_with_path({name: part.params for name, part in state.items()})
    kernels = [leaf for path, leaf in leaves if path[-1].key == "kernel"]
    assert len(kernels) == 9  # three of Q, of V and of the policy
    for kernel in (np.asarray(one) for many in kernels for one in (many if many.ndim == 3 else [many])):
        tall = kernel if kernel.shape[0] >= kernel.shape[1] else kernel.T
        np.testing.assert_allclose(tall.T @ tall, 2.0 * np.eye(tall.shape[1]), atol=1e-5)


@pytest.mark.slow
def test_ivr_starts_at_several_seeds_at_once() -> None:
    """Batched QRs that run beside each other hang (jaxlib 0.10.2): the child is killed, and the test fails."""
    program = (
        "import jax, methods; from methods.core import TaskSpec;"
        "cls = methods.get('ivr'); ivr = cls(cls.Config(), TaskSpec(obs_dim=3, action_dim=2, horizon=5));"
        "print(jax.tree.leaves(jax.jit(jax.vmap(ivr.init))(jax.random.split(jax.random.key(0), 5)))[0].shape[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=120, capture_output=True, text=True, check=True)
    assert done.stdout == "5\n"


# IDQL

IDQL = {"sampler_dims": (8,), "blocks": 1, "dropout": 0.0, "sampler_batch_size": 6, "test_n": (4,)}


@pytest.mark.slow
def test_idql_sampler_by_hand() -> None:
    """Four steps of AdamW at rates r (1 + cos(pi k / 3)) / 2, the last of which is 0, and an average at rate 1/4 of the
    parameters after each; in NumPy, from the gradients of the loss alone."""
    with jax.enable_x64(True):
        method = make("idql", learning_rate=0.01, weight_decay=0.1, decay_steps=3, average_rate=0.25, **IDQL)
        state = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype if leaf.dtype.kind == "i" else float),
                             {"behavior": random_state(method)["behavior"]})  # fmt: skip
        batch, behavior = make_batch(6), state["behavior"]
        assert behavior.target is not None
        slope = jax.jit(jax.grad(method.behavior.sampler.loss))
        update = jax.jit(method.stages()[0].update)
        params, average = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
                           for tree in (behavior.params, behavior.target))  # fmt: skip
        first, second = np.zeros_like(params), np.zeros_like(params)
        for step in range(4):
            key = jax.random.key(step)
            draws = method.behavior.sampler.draw(key, 6)
            grads = slope(state["behavior"].params, batch["observations"], batch["actions"], draws)
            g = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(grads)])
            first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
            adam = first / (1 - 0.9 ** (step + 1)) / (np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8)
            params = params - 0.01 * (1 + np.cos(np.pi * min(step, 3) / 3)) / 2 * (adam + 0.1 * params)
            average = 0.75 * average + 0.25 * params
            state, _ = update(state, batch, key)
            for ours, theirs in ((state["behavior"].params, params), (state["behavior"].target, average)):
                flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(ours)])
                np.testing.assert_allclose(flat, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_idql_acts_by_the_average_and_the_target_critic() -> None:
    """Without an average its parameters propose, and at will the online critic chooses."""
    obs, key = jnp.asarray(make_batch(9)["observations"]), jax.random.key(1)

    def acted(**settings: Any) -> tuple[Any, Any, Any]:
        method = make("idql", hidden_dims=(8,), **IDQL, **settings)
        state = random_state(method)
        candidates, valid = jax.jit(method.candidates)(state, obs, key, per_row({"N": 4}, 9))
        return method, state, (candidates, jax.jit(method.choose)(state, obs, candidates, valid, key))

    method, state, (candidates, chosen) = acted()
    sample, judge = jax.jit(method.behavior.sampler.sample), jax.jit(method.critic.network.apply)
    noise = method.behavior.sampler.noise(key, (9, 4))
    wide = jnp.broadcast_to(obs[:, None], (9, 4, 3))
    np.testing.assert_allclose(candidates, sample(state["behavior"].target, wide, noise), atol=1e-5)
    judged = {which: judge(getattr(state["critic"], which), wide, candidates).min(0).argmax(-1)
              for which in ("params", "target")}  # fmt: skip
    assert (judged["params"] != judged["target"]).any()
    np.testing.assert_array_equal(chosen, candidates[np.arange(9), judged["target"]])
    *_, (_, by_online) = acted(select_critic="online")
    np.testing.assert_array_equal(by_online, candidates[np.arange(9), judged["params"]])
    method, state, (candidates, _) = acted(average_rate=0.0)
    assert state["behavior"].target is None
    np.testing.assert_allclose(candidates, sample(state["behavior"].params, wide, noise), atol=1e-5)


def test_idql_shares_its_critic_and_keeps_its_sampler_apart() -> None:
    """Who acts changes no stage; the sampler's optimiser changes the sampler's stage alone."""

    def stages(**settings: Any) -> list[tuple[str, Any]]:
        return [(stage.rule, stage.config) for stage in make("idql", **IDQL, **settings).stages()]

    base = stages()
    assert base[1] == tuple((stage.rule, stage.config) for stage in make("ifql").stages())[1]
    assert stages(select_critic="online") == base
    for changed in ({"weight_decay": 0.0}, {"decay_steps": 7}, {"average_rate": 0.5}):
        assert stages(**changed)[0] != base[0] and stages(**changed)[1] == base[1]


# Diffusion-QL, SfBC


def test_diffusion_ql_sees_the_number_of_the_step() -> None:
    """Of five steps at times 1/5, ..., 1: cos and sin of 0, ..., 4 times 10^(-4 j / 7), j = 0, ..., 7, which the first
    layer of the time's network adds up here."""
    network = make("diffusion_ql", ONE, hidden_dims=(4,)).actor.sampler.network
    assert isinstance(network, DenoisingNetwork) and network.numbered == 5
    time, nothing = jnp.arange(1, 6, dtype=jnp.float32)[:, None] / 5, jnp.zeros((5, 1))
    params = network.init(jax.random.key(0), nothing, nothing, time)
    _, seen = network.apply(params, nothing, nothing, time, capture_intermediates=True)
    first = params["params"]["MLP_0"]["Dense_0"]
    phase = np.arange(5)[:, None] * 10 ** (-4 * np.arange(8) / 7)
    expected = np.concatenate([np.cos(phase), np.sin(phase)], axis=-1) @ np.asarray(first["kernel"])
    found = seen["intermediates"]["MLP_0"]["Dense_0"]["__call__"][0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_sfbc_has_the_settings_of_its_code() -> None:
    """Rates 1e-4 and 1e-3 (Adam's first steps show them), batches of 4096; times from 1e-5; clean actions unclipped."""
    method = make("sfbc", batch_size=methods.get("sfbc").Config.batch_size, hidden_dims=(4,), rounds=1)
    behavior, critic = method.stages()
    assert behavior.batch_size == critic.batch_size == 4096
    state, batch = random_state(method), {**make_batch(8), "returns": np.ones(8, np.float32)}
    for stage, part, rate in ((behavior, "behavior", 1e-4), (critic, "critic", 1e-3)):
        new, _ = jax.jit(stage.update)(state, batch, jax.random.key(0))
        old, now = (each[part] if part == "behavior" else each[part]["learner"] for each in (state, new))
        moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), now.params, old.params)
        assert max(jax.tree.leaves(moved)) == pytest.approx(rate, rel=1e-2)
    assert make("sfbc", learning_rate=0.5, critic_learning_rate=0.0).critic.learning_rate == 0.5
    times = np.asarray(method.behavior.sampler.draw(jax.random.key(0), 20000).time)
    assert 1e-5 <= times.min() < 1e-3 and times.max() > 0.999  # all above 1e-3: odds of 2e-9
    still = jax.tree.map(jnp.zeros_like, state["behavior"].params)  # eps = 0
    _, clean = method.behavior.sampler.denoise(still, jnp.zeros((1, 3)), jnp.ones((1, 2)), jnp.asarray(1.0))
    np.testing.assert_allclose(clean, np.exp((0.1 + 0.5 * 19.9) / 2), rtol=1e-5)  # 1 / sqrt(abar_1) = 152
