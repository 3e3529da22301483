"""Networks against flax's and against finite differences; optimiser and target network by hand."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from methods.core import part_key
from methods.learner import create, descend, global_norm, optimizer
from methods.networks import MLP, GaussianHead, LayerNorm, QNetwork, mish
from tests.methods.common import double, make, random_state


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize(("x64", "tolerance"), [(True, 1e-12), (False, 1e-4)])
def test_mish_and_its_slopes(x64: bool, tolerance: float) -> None:
    """x tanh(softplus(x)) with two derivatives, in float64 as the oracle, far beyond where e^x overflows."""
    x = np.concatenate([np.linspace(-110, 110, 2201), [10.0, 20.0, -1e4, 1e4]])
    with jax.enable_x64(True):
        ours = oracle = None
        for times in range(3):
            ours, oracle = (mish, _mish) if not times else (jax.grad(ours), jax.grad(oracle))
            found = jax.vmap(ours)(jnp.asarray(x, jnp.float64 if x64 else jnp.float32))
            exact = jax.vmap(oracle)(jnp.asarray(x, jnp.float64))
            np.testing.assert_allclose(found, exact, rtol=1e-6 * (not x64) + 1e-13, atol=tolerance)


def _mish(x: jax.Array) -> jax.Array:
    return x * jnp.tanh(jnp.logaddexp(x, 0.0))


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e-2, 3.0), (1e3, -50.0), (0.0, 1.0)])
def test_layer_norm_is_flax_s_and_so_is_its_gradient(scale: float, offset: float) -> None:
    """Rows of any size, constant ones too, in float64: autodiff of flax's formula is the oracle of the written one."""
    with jax.enable_x64(True):
        x, cotangent = scale * normal(0, 5, 16) + offset, normal(1, 5, 16)
        params = {"scale": 1.0 + 0.5 * normal(2, 16), "bias": normal(3, 16)}

        def pulled(module: nn.Module) -> tuple:
            y, pull = jax.vjp(lambda p, x: module.apply({"params": p}, x), params, x)
            return y, pull(cotangent)

        ours, theirs = pulled(LayerNorm()), pulled(nn.LayerNorm(dtype=jnp.float64))
        # the variance is mean(x^2) - mean^2: offset^2 / (scale^2 + 1e-6) <= 1e6 roundings of 1e-16 are lost in it
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8 * np.abs(b).max())


@pytest.mark.parametrize("norm", ["none", "before", "after"])
def test_mlp_is_its_layers_in_order(norm: str) -> None:
    with jax.enable_x64(True):
        network, x = MLP((5, 4), 3, "relu", norm), normal(0, 7, 2)
        shapes = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
        params = jax.tree.map(lambda leaf: normal(leaf.size, *leaf.shape), shapes)
        y = np.asarray(x)
        for i in range(2):
            y = y @ params[f"Dense_{i}"]["kernel"] + params[f"Dense_{i}"]["bias"]
            for what in {"none": ["relu"], "before": ["norm", "relu"], "after": ["relu", "norm"]}[norm]:
                if what == "relu":
                    y = np.maximum(y, 0.0)
                else:
                    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
                    y = y * params[f"LayerNorm_{i}"]["scale"] + params[f"LayerNorm_{i}"]["bias"]
        y = y @ params["Dense_2"]["kernel"] + params["Dense_2"]["bias"]
        np.testing.assert_allclose(network.apply({"params": params}, x), y, rtol=1e-9, atol=1e-9)  # float64


def test_initial_parameters() -> None:
    """Kernels are uniform within sqrt(3 / fan_avg), biases 0, norms the identity; the two critics differ."""
    params = QNetwork((200, 100)).init(jax.random.key(0), jnp.zeros((1, 30)), jnp.zeros((1, 10)))["params"]["VmapMLP_0"]
    for name, fan_in, fan_out in (("Dense_0", 40, 200), ("Dense_1", 200, 100), ("Dense_2", 100, 1)):
        kernel, edge = np.asarray(params[name]["kernel"]), np.sqrt(3.0 / ((fan_in + fan_out) / 2.0))
        assert kernel.shape == (2, fan_in, fan_out) and np.abs(kernel).max() <= edge
        # the standard deviation of n uniforms is known to 0.45 / sqrt(n) of itself: 5 of those for the fewest, 200
        assert kernel.std() == pytest.approx(edge / np.sqrt(3.0), rel=5 * 0.45 / np.sqrt(kernel.size))
        assert np.abs(kernel[0] - kernel[1]).max() > 0.1 * edge
        assert not params[name]["bias"].any()
    assert not params["LayerNorm_0"]["bias"].any() and (params["LayerNorm_0"]["scale"] == 1.0).all()


def test_gaussian_head_holds_its_deviation() -> None:
    head, obs = GaussianHead((8, 8), 2), normal(0, 4, 3).astype(jnp.float32)
    params = head.init(jax.random.key(0), obs)
    mean, log_std = head.apply(params, obs)
    assert mean.shape == log_std.shape == (4, 2) and not log_std.any()
    wild = {"params": {**params["params"], "log_std": jnp.array([-9.0, 9.0])}}
    np.testing.assert_array_equal(head.apply(wild, obs)[1], np.tile([-5.0, 2.0], (4, 1)))


@pytest.mark.parametrize(("activation", "how"), [("relu", "mean"), ("gelu", "min")])
def test_the_action_gradient_is_the_slope_of_q(activation: str, how: str) -> None:
    """Central differences of the aggregated critics, step 1e-6 in float64: rounding 1e-16 / 1e-6 = 1e-10 of Q, and a
    truncation of 1e-12; none of these points has a kink of ReLU within 1e-6."""
    method = make("vgf", activation=activation, flow_q_aggregation=how)
    with jax.enable_x64(True):
        state = double(random_state(method, scale=0.5))
        obs, actions, h = normal(0, 4, 3), normal(1, 4, 9, 2), 1e-6

        @jax.jit
        def q(actions: jax.Array) -> jax.Array:
            wide = jnp.broadcast_to(obs[:, None], (4, 9, 3))
            return getattr(jnp, how)(method.critic.network.apply(state["critic"].params, wide, actions), axis=0)

        found = jax.jit(method.action_grad)(state, obs, actions)
        for i in range(2):
            shift = h * jnp.eye(2)[i]
            slope = (q(actions + shift) - q(actions - shift)) / (2 * h)
            np.testing.assert_allclose(found[..., i], slope, rtol=1e-6, atol=1e-7)
    assert np.abs(found).max() > 0.05


def test_target_follows_the_parameters_before_the_step() -> None:
    """tau = 1/4: the target 0 goes to 1/4 of the old 4, not of the new parameter."""
    tx = optax.sgd(1.0)
    learner = create({"w": jnp.array(4.0)}, tx, target=True)._replace(target={"w": jnp.array(0.0)})
    learner = descend(learner, {"w": jnp.array(3.0)}, tx, tau=0.25)
    assert (learner.params["w"], learner.target["w"]) == (1.0, 1.0)
    learner = descend(learner, {"w": jnp.array(3.0)}, tx, tau=0.25)
    assert (learner.params["w"], learner.target["w"]) == (-2.0, 1.0)  # 1/4 of 1 and 3/4 of 1
    assert descend(create({"w": jnp.array(4.0)}, tx), {"w": jnp.array(3.0)}, tx).target is None


def test_optimizer_clips_the_global_norm() -> None:
    """(3, 4) has norm 5. Clipped to 1 it is (0.6, 0.8); Adam's first moment is a tenth of that."""
    params = {"a": jnp.array(0.0), "b": jnp.array(0.0)}
    grads = {"a": jnp.array(3.0), "b": jnp.array(4.0)}
    assert global_norm(grads) == 5.0
    for clip, expected in ((None, (0.3, 0.4)), (1.0, (0.06, 0.08)), (10.0, (0.3, 0.4))):
        tx = optimizer(0.01, clip)
        learner = descend(create(params, tx), grads, tx)
        first = optax.tree_utils.tree_get(learner.opt_state, "mu")
        assert (first["a"], first["b"]) == pytest.approx(expected, rel=1e-6)  # float32
        assert learner.params["a"] == pytest.approx(-0.01, rel=1e-4)  # float32: 3e-5 in sqrt(1 - 0.999)


def test_part_keys_depend_on_name_and_seed() -> None:
    data = {
        jax.random.key_data(part_key(jax.random.key(seed), name)).tobytes()
        for seed in (0, 1)
        for name in ("behavior", "critic", "actor", "gradient")
    }
    assert len(data) == 8
    assert (part_key(jax.random.key(3), "critic") == part_key(jax.random.key(3), "critic")).all()
