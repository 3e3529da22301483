"""Flow-matched values: closed forms, the loss and its target by a literal loop, and what they are to methods."""

from __future__ import annotations

from dataclasses import replace
from math import erf, erfc, sqrt
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import methods
from core.errors import BadInput
from harness.config import parse_set, resolve
from methods.core import Static, leaves, neutral
from methods.critic import Critic, FlowCritic, guide
from methods.floq import VALUE_NOISE, FloqConfig, ValueFlow
from methods.learner import create, descend
from methods.settings import marked
from tests.methods.common import SMALL, SPEC, double, make, make_batch, random_state

ROWS, DRAWS, STEPS = 5, 4, 3
FLOQ: dict[str, Any] = {"critic": "floq", "floq_steps": STEPS, "floq_draws": DRAWS}
SIZES: dict[str, Any] = {"hidden_dims": (8,), "floq_hidden_dims": (6, 7), "floq_bins": 5, "floq_smoothing": 2.0}
USERS = [name for name in methods.REGISTRY if issubclass(methods.get(name).Config, FloqConfig)
         and name not in ("rql", "ifql", "idql", "robust_q")]  # fmt: skip
QUICK = ("fql", "best_of_n", "rebrac", "qsm")
FLOW = ValueFlow(3, 2, (6,), 0.5, steps=STEPS, draws=DRAWS, bins=2, smoothing=1.0)
PARAMS = {"rewards": jnp.array([-1.0, 0.0])}


def flow_critic(**settings: Any) -> FlowCritic:
    critic = make("fql", **{**FLOQ, **SIZES, **settings}).critic
    assert isinstance(critic, FlowCritic)
    return critic


# inputs of the velocity


def test_masses_by_hand() -> None:
    """Rewards from -1 to 0 at gamma = 1/2: the support is [-2.02, 0.02], two bins of 1.02 and a std of one bin."""
    below = [0.5 * (1.0 + erf(place / sqrt(2.0))) for place in (0.0, 1.0, 2.0)]  # of a standard normal
    left = [(below[1] - below[0]) / (below[2] - below[0]), (below[2] - below[1]) / (below[2] - below[0])]
    found = FLOW.masses(PARAMS, jnp.array([-1.0, -2.02, 0.02]))
    np.testing.assert_allclose(found, [[0.5, 0.5], left, left[::-1]], rtol=1e-5)


def test_masses_far_from_the_support_are_finite() -> None:
    """Where the Gaussian has hardly anything left within it they stay as they are at eight stds beyond."""
    flow = replace(FLOW, bins=50, smoothing=16.0)
    edge = 8 * 16 * 2.04 / 50
    found = np.asarray(flow.masses(PARAMS, jnp.array([-1e6, -2.02 - edge, 1e6, 0.02 + edge])))
    assert (found >= 0.0).all()
    np.testing.assert_allclose(found.sum(axis=-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(found[[0, 2]], found[[1, 3]], rtol=1e-3, atol=1e-6)
    upper = [erfc((8 + bin / 16) / sqrt(2.0)) for bin in range(51)]  # of what lies above each edge
    np.testing.assert_allclose(found[0], -np.diff(upper) / (upper[0] - upper[-1]), rtol=1e-3)
    np.testing.assert_allclose(found[2], found[0][::-1], rtol=1e-3)


def test_starts_by_hand() -> None:
    """Returns from -30 to 10, a tenth of them; the grid has the middles of quarters."""
    flow = replace(FLOW, discount=0.9)
    params = {"rewards": jnp.array([-3.0, 1.0])}
    np.testing.assert_allclose(flow.starts(params, jnp.array([0.0, 0.5, 1.0])), [-3.0, -1.0, 1.0], rtol=1e-5)
    np.testing.assert_allclose(flow.grid, [0.125, 0.375, 0.625, 0.875])


def test_chunks_have_the_support_of_single_steps() -> None:
    """h rewards and a bootstrap of gamma^h bound returns by r / (1 - gamma), as one of each does."""
    critic = make("fql", SPEC.chunked(2), chunk=2, discount=0.9, **FLOQ).critic
    assert critic.discount == pytest.approx(0.81) and critic.flow.discount == 0.9


# closed forms


class Straight(ValueFlow):
    """psi = (r - x) / (1 - t), whose flow ends in r from anywhere; the parameter is r."""

    def velocity(self, params: Any, seen: Any, x: Any, time: Any) -> Any:
        return (params["flow"] - x) / (1.0 - time)


@pytest.mark.parametrize("steps", [1, 8])
def test_a_constant_reward_without_a_bootstrap_is_every_step_count_s_value(steps: int) -> None:
    flow = Straight(**{**vars(FLOW), "steps": steps})
    params = {**PARAMS, "flow": jnp.array(-0.7)}
    ends = flow.values(params, jnp.zeros((ROWS, 1, 5)), jnp.array([-3.0, 0.0, 2.0]))
    assert ends.shape == (2, ROWS, 3)
    np.testing.assert_allclose(ends, -0.7, rtol=1e-6)
    batch = {name: jnp.asarray(column) for name, column in make_batch(ROWS).items()}
    batch[VALUE_NOISE] = flow.noise(jax.random.key(0), ROWS)
    batch |= {"rewards": jnp.full(ROWS, -0.7), "masks": jnp.zeros(ROWS)}
    target = flow_critic().target(batch, jnp.full(ROWS, 5.0))
    errors, ends = flow.matched(params, batch, target)
    assert errors.shape == (2, ROWS) and ends.shape == (2, ROWS, DRAWS)
    np.testing.assert_allclose(errors, 0.0, atol=1e-8)


# the loss


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


def mlp(params: Any, member: int, x: np.ndarray) -> float:
    """One member of an ensemble at one input: GELU, then LayerNorm."""
    (layers,) = params["params"].values()
    layers = jax.tree.map(lambda leaf: np.asarray(leaf[member]), layers)
    depth = sum(name.startswith("LayerNorm") for name in layers)
    for number in range(depth):
        x = gelu(x @ layers[f"Dense_{number}"]["kernel"] + layers[f"Dense_{number}"]["bias"])
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-6)
        x = x * layers[f"LayerNorm_{number}"]["scale"] + layers[f"LayerNorm_{number}"]["bias"]
    return float((x @ layers[f"Dense_{depth}"]["kernel"] + layers[f"Dense_{depth}"]["bias"])[0])


class Literal:
    """The same critic, number by number. Rewards lie in [-2, 1], gamma = .9, five bins with a std of two."""

    low, high, width = -20.1, 10.1, 30.2 / 5

    def __init__(self, params: Any) -> None:
        self.params = params

    def psi(self, member: int, obs: np.ndarray, action: np.ndarray, x: float, t: float) -> float:
        edges = [0.5 * erf((self.low + i * self.width - x) / (sqrt(2.0) * 2.0 * self.width)) for i in range(6)]
        masses = [(edges[i + 1] - edges[i]) / (edges[5] - edges[0]) for i in range(5)]
        return mlp(self.params["flow"], member, np.array([*obs, *action, *masses, np.cos(t)]))

    def ode(self, member: int, obs: np.ndarray, action: np.ndarray, x: float) -> float:
        for step in range(STEPS):
            x += self.psi(member, obs, action, x, step / STEPS) / STEPS
        return x

    @staticmethod
    def start(share: float) -> float:
        return 0.1 * (-20.0 + share * 30.0)


@pytest.fixture(scope="module")
def scene() -> Any:
    """FQL in float64: the method, its state with rewards from -2 to 1, and a batch with the loss's draws."""
    with jax.enable_x64(True):
        method = make("fql", discount=0.9, q_aggregation="min", **FLOQ, **SIZES)
        state = double(random_state(method))
        rewards = np.array([-2.0, 0.0, 1.0, -1.0, 0.5])
        batch = {name: jnp.asarray(column, jnp.float64) for name, column in make_batch(ROWS).items()}
        batch["rewards"] = jnp.asarray(rewards)
        (stage,) = method.stages()
        assert stage.complete is not None
        state, extra = stage.complete(state, batch)
        assert not extra
        batch[VALUE_NOISE] = jax.random.uniform(jax.random.key(3), (ROWS, DRAWS, 3), jnp.float64)
        return method, state, batch


def test_rewards_are_those_of_the_dataset(scene: Any) -> None:
    _, state, _ = scene
    for params in (state["critic"].params, state["critic"].target):
        np.testing.assert_array_equal(params["rewards"], [-2.0, 1.0])


@pytest.mark.slow
def test_fql_s_target_by_a_literal_loop(scene: Any) -> None:
    """The mean over draws, each of an own action and start, of the smaller of both flows' ends."""
    method, state, batch = scene
    with jax.enable_x64(True):
        noise = method.draw(jax.random.key(0), batch).next_noise
        assert noise.shape == (ROWS, DRAWS, 2)
        found, actions = jax.jit(lambda state: (
            method.critic.target(batch, method.next_value(state, batch, noise)),
            method.actor(state["actor"].params, batch["next_observations"], noise),
        ))(state)  # fmt: skip
    literal, obs = Literal(state["critic"].target), np.asarray(batch["next_observations"])
    actions, shares = np.clip(np.asarray(actions), -1, 1), np.asarray(batch[VALUE_NOISE])
    for row in range(ROWS):
        values = [min(literal.ode(member, obs[row], actions[row, draw], literal.start(shares[row, draw, 0]))
                      for member in (0, 1)) for draw in range(DRAWS)]  # fmt: skip
        expected = float(batch["rewards"][row]) + 0.9 * float(batch["masks"][row]) * np.mean(values)
        np.testing.assert_allclose(found[row], expected, rtol=1e-9)


@pytest.mark.parametrize("over", ["mean", "sum"])
def test_the_loss_by_a_literal_loop(scene: Any, over: str) -> None:
    """Flow matching, summed over draws, and the networks' distance to the flow's mean end; a row whose window crosses
    an episode's end counts 0."""
    method, state, batch = scene
    params, target, valid = state["critic"].params, np.linspace(-9.0, 4.0, ROWS), np.array([1.0, 1.0, 0.0, 1.0, 1.0])
    with jax.enable_x64(True):
        critic = replace(method.critic, loss=over)
        given = {**batch, "valid": jnp.asarray(valid)[:, None]}
        found, value = jax.jit(critic.td_loss)(params, given, jnp.asarray(target))
    literal, total, values = Literal(params), 0.0, []
    for row in range(ROWS):
        obs, action = (np.asarray(batch[name])[row] for name in ("observations", "actions"))
        draws = [(literal.start(x), t) for _, x, t in np.asarray(batch[VALUE_NOISE])[row]]
        ends = np.mean([literal.ode(member, obs, action, x) for member in (0, 1) for x, _ in draws])
        for member in (0, 1):
            matching = sum((literal.psi(member, obs, action, (1 - t) * x + t * target[row], t) - (target[row] - x)) ** 2
                           for x, t in draws)  # fmt: skip
            values.append(mlp(params["critic"], member, np.array([*obs, *action])))
            total += valid[row] * (matching + (values[-1] - ends) ** 2)
    np.testing.assert_allclose(found, total / ROWS / (2 if over == "mean" else 1), rtol=1e-9)
    np.testing.assert_allclose(value, np.mean(values), rtol=1e-9)


def test_a_target_of_one_action_has_a_grid_of_starts(scene: Any) -> None:
    """The mean over the middles of equal parts; of several actions, each."""
    method, state, batch = scene
    literal, target = Literal(state["critic"].target), state["critic"].target
    actions = np.random.default_rng(1).uniform(-1.0, 1.0, (ROWS, 2, 2))
    obs = np.asarray(batch["next_observations"])
    with jax.enable_x64(True):
        found, heads = (jax.jit(of)(target, batch["next_observations"], jnp.asarray(actions))
                        for of in (method.critic.q, method.critic.q_values))  # fmt: skip
    ends = np.array([[literal.ode(member, obs[2], actions[2, 1], literal.start((draw + 0.5) / DRAWS))
                      for draw in range(DRAWS)] for member in (0, 1)])  # fmt: skip
    assert found.shape == (ROWS, 2) and heads.shape == (2, ROWS, 2)
    np.testing.assert_allclose(found[2, 1], ends.min(axis=0).mean(), rtol=1e-9)
    np.testing.assert_allclose(heads[:, 2, 1], ends.mean(axis=1), rtol=1e-9)


@pytest.mark.parametrize("which", ["params", pytest.param("target", marks=pytest.mark.slow)])
def test_the_slope_in_actions_by_finite_differences(scene: Any, which: str) -> None:
    """Of the networks, which actors maximise, and of the flow itself."""
    method, state, batch = scene
    params, obs, actions = getattr(state["critic"], which), batch["observations"], batch["actions"]
    with jax.enable_x64(True):
        found = jax.jit(lambda actions: method.critic.action_grad(params, obs, actions, "mean"))(actions)
        q = jax.jit(lambda actions: method.critic.q(params, obs, actions, "mean"))
        for place in range(2):
            step = 1e-6 * np.eye(2)[place]
            ahead, back = (q(actions + side * step) for side in (1, -1))
            np.testing.assert_allclose(found[:, place], (ahead - back) / 2e-6, rtol=1e-5, atol=1e-8)
    assert np.abs(found).max() > 1e-3


@pytest.mark.slow
def test_the_networks_teach_the_flow_nothing(scene: Any) -> None:
    """Where the flow-matching loss is left out, no gradient reaches the velocity, and none ever reaches the rewards."""
    method, state, batch = scene
    with jax.enable_x64(True):
        flow = method.critic.flow
        ends = jax.grad(lambda params: jnp.sum(flow.matched(params, batch, batch["rewards"])[1]))
        loss = jax.grad(lambda params: method.critic.td_loss(params, batch, batch["rewards"])[0])
        by_ends, by_loss = (jax.jit(of)(state["critic"].params) for of in (ends, loss))
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(by_ends))
    assert not np.any(by_loss["rewards"])
    assert np.any(jax.tree.leaves(by_loss["flow"])[0]) and np.any(jax.tree.leaves(by_loss["critic"])[0])


# the part


def test_the_target_is_the_flow_s_alone() -> None:
    """It starts as a copy, follows the parameters before a step, and rewards stay."""
    critic = replace(flow_critic(), tau=0.25)
    learner = jax.jit(critic.init)(jax.random.key(0))
    assert learner.params.keys() == {"critic", "flow", "rewards"} and learner.target.keys() == {"flow", "rewards"}
    moved = learner._replace(params=jax.tree.map(lambda leaf: leaf + 1.0, learner.params))
    grads = jax.tree.map(jnp.ones_like, moved.params)
    new = jax.jit(lambda learner: descend(learner, grads, critic.optimizer, tau=0.25))(moved)
    for before, after in zip(jax.tree.leaves(learner.target), jax.tree.leaves(new.target), strict=True):
        np.testing.assert_allclose(after, before + 0.25, rtol=1e-5, atol=1e-6)
    assert guide(critic, learner) is learner.params
    plain = make("fql").critic
    assert guide(plain, learner) is learner.target


def test_a_target_of_some_parameters_follows_those() -> None:
    tx = make("fql").critic.optimizer
    learner = create({"a": jnp.ones(2), "b": jnp.zeros(2)}, tx)._replace(target={"a": jnp.zeros(2)})
    grads = jax.tree.map(jnp.zeros_like, learner.params)
    np.testing.assert_allclose(descend(learner, grads, tx, tau=0.5).target["a"], 0.5)


def test_the_loss_s_draws_are_the_step_s() -> None:
    """Other keys, other draws, whichever batch; the rest of an update has a key of its own."""
    method = make("vgf", **FLOQ, **SIZES)
    drawn = []
    stage = method.critic.within(method.stages()[0]._replace(complete=None, update=lambda state, batch, key: (
        state, drawn.append((np.asarray(batch[VALUE_NOISE]), jax.random.key_data(key))) or {})), "critic")  # fmt: skip
    for seed in (1, 1, 2):
        stage.update({}, make_batch(ROWS, seed=len(drawn)), jax.random.key(seed))
    assert drawn[0][0].shape == (ROWS, DRAWS, 3) and 0.0 <= drawn[0][0].min() < drawn[0][0].max() < 1.0
    np.testing.assert_array_equal(drawn[0][0], drawn[1][0])
    assert not np.array_equal(drawn[0][0], drawn[2][0])
    assert not np.array_equal(drawn[0][1], jax.random.key_data(jax.random.key(1)))


def test_it_is_fitted_beside_what_else_a_stage_fits() -> None:
    """Weights of imitation by returns, and TD3+BC's normaliser."""
    batch = make_batch(ROWS)
    for name, settings in (("fql", {"behavior_weighting": "return"}), ("td3bc", {})):
        method = make(name, **FLOQ, **SIZES, **settings)
        (stage,) = method.stages()
        state, extra = jax.jit(stage.complete)(random_state(method), batch)
        np.testing.assert_allclose(state["critic"].target["rewards"], [batch["rewards"].min(), batch["rewards"].max()])
        assert set(extra) == ({"behavior_weight"} if name == "fql" else set())
        if name == "td3bc":
            np.testing.assert_allclose(state["normalizer"]["mean"], batch["observations"].mean(axis=0), atol=1e-6)
            assert stage.between is not None


# methods


def test_who_can_have_it() -> None:
    assert {"fql", "qc_fql", "vgf", "avgf", "vgf_qgf", "best_of_n", "qc", "qgf", "fbrac", "qam", "qam_f", "qam_e",
            "fedit", "dsrl", "qsm", "dac", "diffusion_ql", "rebrac", "td3bc"} == set(USERS)  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in USERS]
)
def test_every_td_critic_can_be_one(name: str) -> None:
    """One update of each stage, online too, by shapes alone; costs of acting are those of the plain critic."""
    small = {"hidden_dims": (8,), **SMALL.get(name, {})}
    method, plain = make(name, **small, **FLOQ), make(name, **small, **({"critic": "td"} if name == "qgf" else {}))
    state, batch = jax.eval_shape(method.init, jax.random.key(0)), make_batch(8)
    for stage in method.stages():
        if "critic" in stage.trains:
            state, _ = jax.eval_shape(stage.complete, state, batch)
        state, metrics = jax.eval_shape(stage.update, state, batch, jax.random.key(1))
        assert "critic" not in stage.trains or "critic/loss" in metrics
    online = method.online()
    assert online is not None and online.complete is None
    jax.eval_shape(online.update, state, batch, jax.random.key(1))
    assert isinstance(method.critic, FlowCritic) and type(plain.critic) is Critic
    for knobs in method.knobs:
        assert method.cost(knobs) == plain.cost(knobs)
    for one, other in zip((*method.stages(), online), (*plain.stages(), plain.online()), strict=True):
        own = {key.partition(".")[2] or key for key in one.config}
        assert (one.config != other.config) == ("critic" in one.trains) == ("floq_steps" in own)


def test_judges_of_weights_and_critics_of_noise_stay_plain() -> None:
    method = make("fql", behavior_weighting="advantage", **FLOQ)
    assert type(method.behavior.weighting.judge.critic) is Critic
    assert type(make("dsrl", **FLOQ).noise_critic) is Critic


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("rql", "critic=floq", r"^rql\.critic=floq: its values are of unfinished actions"),
        ("ifql", "ifql.critic=floq", "critic=floq is not one of iql"),
        ("fan", "fan.critic=floq", "fan has no setting 'critic'"), ("iql", "iql.critic=floq", "no setting 'critic'"),
        ("fql", "fql.floq_steps=0", "floq_steps=0 is not from 1"),
    ],
)  # fmt: skip
def test_who_cannot_says_so(name: str, text: str, line: str) -> None:
    with pytest.raises(BadInput, match=line):
        resolve(name, "toy", "toy", parse_set([text]))


def test_returns_must_be_bounded() -> None:
    with pytest.raises(BadInput, match=r"^critic=floq needs a discount below 1, not 1: "):
        make("fql", critic="floq", discount=1.0)
    assert make("fql", discount=1.0).critic.discount == 1.0


@pytest.mark.parametrize("name", ["fql", "vgf", "rebrac"])
def test_its_settings_are_no_one_else_s_business(name: str) -> None:
    """With another critic nothing of it is in an identity, whatever it says; none of them is a traced one."""
    usual, idle = make(name), make(name, floq_steps=3, floq_coverage=0.5, floq_hidden_dims=(4,))
    assert [stage.config for stage in usual.stages()] == [stage.config for stage in idle.stages()]
    assert {"floq_steps", "floq_coverage", "floq_hidden_dims"} <= neutral(idle.config)
    assert usual.online().config == idle.online().config
    own = make(name, critic="floq", floq_coverage=0.5)
    assert not {"floq_coverage", "critic"} & neutral(own.config)
    assert not {key for key in leaves(own.config) if key.startswith("floq_")} & marked(own.config, Static)


@pytest.mark.slow
def test_it_learns_a_value_it_can_be_told() -> None:
    """TD with r = -1 and gamma = 1/2, where nothing ends: -2 everywhere, of the flow and of the networks."""
    rows = 16
    critic = replace(flow_critic(discount=0.5, floq_smoothing=4.0, floq_draws=2), learning_rate=3e-3, tau=0.1)
    batch = {name: jnp.asarray(column) for name, column in make_batch(rows).items()}
    batch |= {"rewards": -jnp.ones(rows), "masks": jnp.ones(rows)}
    learner = critic.init(jax.random.key(0))
    learner = learner._replace(**{name: critic.flow.fitted(getattr(learner, name), jnp.array([-1.0, 0.0]))
                                  for name in ("params", "target")})  # fmt: skip

    def step(learner: Any, key: Any) -> Any:
        now = {**batch, VALUE_NOISE: critic.flow.noise(key, rows)}
        value = critic.q(learner.target, batch["next_observations"], batch["actions"])
        return critic.update(learner, now, value)

    learner, _ = jax.lax.scan(step, learner, jax.random.split(jax.random.key(1), 1000))
    for params in (learner.params, learner.target):
        values = critic.q(params, batch["observations"], batch["actions"])
        np.testing.assert_allclose(np.mean(values), -2.0, atol=0.1)
