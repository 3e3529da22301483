"""Updates of the baselines against re-implementations from their papers and codes, as in `test_updates.py`: float64,
the same draws, nothing of `methods` on the oracles' side but the trees of parameters."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.methods.common import double, make, make_batch, random_state
from tests.methods.test_updates import (
    COMMON,
    DISCOUNT,
    LEARNING_RATE,
    TAU,
    TOLERANCE,
    A,
    B,
    assert_same,
    dense,
    field,
    float64,  # noqa: F401, a fixture
    flow_matching_loss,
    mlp,
    sample_flow,
    stepped,
    twin_q,
)

ADAM = optax.adam(LEARNING_RATE)
# two true ends, a time limit, and a transition that ends truly though its episode goes on
ENDS = {"masks": np.array([1, 0, 1, 0, 0, 1], np.float32), "terminals": np.array([0, 1, 1, 1, 0, 0], np.float32)}
SPREAD = {"seed": 3, "scale": 0.6}  # a state whose advantages lie on both sides of every rule's threshold
relu, gelu = jax.nn.relu, partial(jax.nn.gelu, approximate=True)
suite_q = partial(twin_q, act=gelu, norm="after")  # FQL's suite
plain_q = partial(twin_q, act=relu, norm="none")


def state_value(params: Any, obs: Any, act: Any, norm: str) -> Any:
    return mlp(params["params"]["MLP_0"], obs, act=act, norm=norm)[..., 0]


def head(p: Any, obs: Any, act: Any) -> Any:
    """A policy head of one hidden layer."""
    return dense(p["Dense_0"], act(dense(p["MLP_0"]["Dense_0"], obs)))


def learn(learner: Any, loss: Any, tx: Any = ADAM, tau: float = TAU, after: bool = False) -> tuple[Any, Any]:
    """A gradient step and the loss before it; the target follows the parameters before or after it."""
    value, grads = jax.value_and_grad(loss)(learner.params)
    params, opt_state, _ = stepped(learner, grads, tx)
    followed = params if after else learner.params
    target = learner.target and jax.tree.map(lambda p, slow: tau * p + (1 - tau) * slow, followed, learner.target)
    return (params, opt_state, target), value


def learn_q(learner: Any, batch: Any, q: Any, next_value: Any, *, share: float, **how: Any) -> tuple[Any, Any]:
    """`share` of the sum of both critics' mean squared errors towards r + discount mask V(s')."""
    target = batch["rewards"] + DISCOUNT * batch["masks"] * next_value

    def loss(params: Any) -> Any:
        both = q(params, batch["observations"], batch["actions"])
        return share * jnp.sum((both[0] - target) ** 2 + (both[1] - target) ** 2) / B

    return learn(learner, loss, **how)


def agree(method: Any, stage: Any, oracle: Any, update: Any = None, **state_how: Any) -> None:
    """Ours and the oracle's from one state, twice, the second time from the first's; what the oracle does not name
    stays. `oracle(state, batch, draws)` returns learners and losses."""
    state = double(random_state(method, **state_how))
    update, oracle = jax.jit(update or stage.update), jax.jit(oracle)
    for seed in range(2):
        batch, key = double({**make_batch(B, seed=seed), **ENDS}), jax.random.key(seed)
        theirs, losses = oracle(state, batch, method.draw(key, batch))
        before, (state, metrics) = state, update(state, batch, key)
        assert_same({name: state[name] for name in theirs}, theirs)
        for name, loss in losses.items():
            np.testing.assert_allclose(metrics[f"{name}/loss"], loss, **TOLERANCE)
        for name in state:
            pairs = zip(jax.tree.leaves(state[name]), jax.tree.leaves(before[name]), strict=True)
            assert any((a != b).any() for a, b in pairs) == (name in theirs), name


def spread(x: Any) -> bool:
    """Whether a condition holds for some rows and not for others, so that both sides of a rule are tried."""
    return bool(jnp.any(x)) and not bool(jnp.all(x))


# in-sample critics and regression


def in_sample_step(state: Any, batch: Any, draws: Any, *, rule: Any, q: Any, v: Any, first: bool) -> Any:
    """V from the old target, then Q from V as it was, or from the new one if it is `first`."""
    obs, critic, value = batch["observations"], state["critic"], state["value"]

    def value_loss(params: Any) -> Any:
        now = v(params, obs)
        return rule(jnp.minimum(*q(critic.target, obs, batch["actions"])) - now, now)

    new_value, loss = learn(value, value_loss)
    next_value = v(new_value[0] if first else value.params, batch["next_observations"])
    new_critic, critic_loss = learn_q(critic, batch, q, next_value, share=1.0, after=first)
    return {"critic": new_critic, "value": new_value}, {"critic": critic_loss, "value": loss}


def expectile(u: Any, v: Any, tau: float = 0.7) -> Any:
    return jnp.mean(jnp.abs(tau - (u < 0)) * u**2)


def sql(u: Any, v: Any, a: float = 0.3) -> Any:
    return jnp.mean((1 + u / (2 * a) > 0) * (1 + u / (2 * a)) ** 2 + v / a)


def eql(u: Any, v: Any, a: float = 0.1) -> Any:
    """exp(u / a) + V / a with u / a at most 5, times a constant that is exp(-5) where some row is at the limit."""
    largest = jax.lax.stop_gradient(jnp.maximum(jnp.minimum(u / a, 5).max(), -1))
    return jnp.mean(jnp.exp(jnp.minimum(u / a, 5)) + v / a) * jnp.exp(-largest)


IN_SAMPLE = {
    "expectile": (make("ifql", expectile=0.7, **COMMON), expectile),
    "sql": (make("ivr", regularizer="sql", sql_alpha=0.3, **COMMON), sql),
    "eql": (make("ivr", regularizer="eql", eql_alpha=0.1, **COMMON), eql),
    "sql at once": (make("ivr", regularizer="sql", sql_alpha=0.3, order="simultaneous", **COMMON), sql),
}
IVR_NETS = {"q": plain_q, "v": partial(state_value, act=relu, norm="before")}  # its code's
IQL_NETS = {"q": suite_q, "v": partial(state_value, act=gelu, norm="after")}


@pytest.mark.parametrize(
    "form", [pytest.param(f, marks=[pytest.mark.slow] * (f in ("sql at once", "eql"))) for f in IN_SAMPLE]
)
def test_in_sample_critic(form: str) -> None:
    method, rule = IN_SAMPLE[form]
    stage = next(stage for stage in method.stages() if "value" in stage.trains)
    nets = IQL_NETS if form == "expectile" else IVR_NETS
    agree(method, stage, partial(in_sample_step, rule=rule, first=form in ("sql", "eql"), **nets), **SPREAD)
    state, batch = double(random_state(method, **SPREAD)), double(make_batch(B))
    u = np.asarray(method.in_sample.advantage(state, batch["observations"], batch["actions"], target=True))
    # rows on both sides of: a positive advantage, a positive weight, the limit of the exponent
    assert spread({"expectile": u > 0, "sql": 1 + u / 0.6 > 0, "eql": u / 0.1 > 5}[form.split()[0]])


def actor_step(state: Any, batch: Any, draws: Any, *, weigh: Any, policy: Any, q: Any, v: Any, target: bool) -> Any:
    obs, actions = batch["observations"], batch["actions"]
    critic = state["critic"].target if target else state["critic"].params
    u = jnp.minimum(*q(critic, obs, actions)) - v(state["value"].params, obs)

    def loss(params: Any) -> Any:
        mean, std = policy(params["params"], obs)
        log_prob = jnp.sum(-0.5 * ((actions - mean) / std) ** 2 - jnp.log(std) - 0.5 * jnp.log(2 * jnp.pi), axis=-1)
        return -jnp.sum(weigh(u) * log_prob) / B

    new, value = learn(state["actor"], loss)
    return {"actor": new}, {"actor": value}


def squashed(p: Any, obs: Any) -> Any:
    return jnp.tanh(head(p["PolicyHead_0"], obs, relu)), jnp.exp(p["log_std"])


ACTORS = {
    "iql": ({"alpha": 10.0}, lambda u: jnp.minimum(jnp.exp(10 * u), 100), lambda p, s: (head(p, s, gelu), 1.0)),
    "sql": ({"sql_alpha": 0.3}, lambda u: jnp.clip(u, 0, 100), squashed),
    "eql": ({"eql_alpha": 0.5}, lambda u: jnp.minimum(jnp.exp(10 * u / 0.5), 100), squashed),
}


@pytest.mark.parametrize("form", [pytest.param(one, marks=[pytest.mark.slow] * (one == "eql")) for one in ACTORS])
def test_advantage_weighted_actor(form: str) -> None:
    settings, weigh, policy = ACTORS[form]
    if form != "iql":
        settings = {**settings, "regularizer": form}
    method = make("iql" if form == "iql" else "ivr", **settings, **COMMON)
    nets = IQL_NETS if form == "iql" else IVR_NETS
    oracle = partial(actor_step, weigh=weigh, policy=policy, target=form != "iql", **nets)
    agree(method, method.stages()[1], oracle, **SPREAD)
    weights = np.asarray(method.weights(double(random_state(method, **SPREAD)), double(make_batch(B))))
    assert spread(weights == (0.0 if form == "sql" else 100.0))


# deterministic actor-critics


def td3_step(
    state: Any, batch: Any, noise: Any, *, q: Any, act: Any, penalty: Any, actor_loss: Any, full: bool = True,
    order: str = "simultaneous", lagging: bool = False,
) -> Any:  # fmt: skip
    """With `lagging` the actor's target follows the actor before its step in either order (ReBRAC's own code)."""
    critic, actor, sequential = state["critic"], state["actor"], order == "sequential"

    def pi(params: Any, obs: Any) -> Any:
        return jnp.tanh(head(params["params"], obs, act))

    noisy = pi(actor.target, batch["next_observations"]) + jnp.clip(0.2 * noise, -0.1, 0.1)
    taken = jnp.clip(noisy, -1, 1)
    next_q = jnp.minimum(*q(critic.target, batch["next_observations"], taken)) - penalty(batch, taken)
    new, critic_loss = learn_q(critic, batch, q, next_q, share=0.5, tau=TAU if full else 0.0, after=sequential)
    if not full:
        return {"critic": new}, {"critic": critic_loss}

    def loss(params: Any) -> Any:
        taken = pi(params, batch["observations"])
        judge = new[0] if sequential else critic.params
        return actor_loss(q(judge, batch["observations"], taken), taken - batch["actions"])

    new_actor, value = learn(actor, loss, after=sequential and not lagging)
    return {"critic": new, "actor": new_actor}, {"critic": critic_loss, "actor": value}


def rebrac_penalty(batch: Any, taken: Any) -> Any:
    return 0.4 * (1 - batch["terminals"]) * jnp.sum((taken - batch["next_actions"]) ** 2, axis=-1)


def rebrac_actor(q: Any, away: Any) -> Any:
    smaller = jnp.minimum(*q)
    return -smaller.mean() / jax.lax.stop_gradient(jnp.abs(smaller).mean()) + 0.7 * jnp.sum(away**2) / B


def td3bc_actor(q: Any, away: Any) -> Any:
    return -2.5 / jax.lax.stop_gradient(jnp.abs(q[0]).mean()) * q[0].mean() + jnp.sum(away**2) / (B * A)


@pytest.mark.parametrize(
    ("order", "full"),
    [("simultaneous", True), ("sequential", True), pytest.param("simultaneous", False, marks=pytest.mark.slow)],
)
def test_rebrac(order: str, full: bool) -> None:
    """Its update, and the step between two of the actor's, which leaves the actor and every target alone; as in FQL's
    suite ("simultaneous") and as in its own code."""
    method = make("rebrac", alpha_actor=0.7, alpha_critic=0.4, actor_noise_clip=0.1, order=order, **COMMON)
    (stage,) = method.stages()
    assert stage.period == 2
    rules = {"penalty": rebrac_penalty, "actor_loss": rebrac_actor}
    oracle = partial(td3_step, q=suite_q, act=gelu, full=full, order=order, lagging=True, **rules)
    agree(method, stage, oracle, stage.update if full else stage.between)


@pytest.mark.parametrize(
    ("order", "full"),
    [("sequential", True), ("sequential", False), pytest.param("simultaneous", True, marks=pytest.mark.slow)],
)
def test_td3bc(order: str, full: bool) -> None:
    method = make("td3bc", actor_noise_clip=0.1, **COMMON, **({} if order == "sequential" else {"order": order}))
    (stage,) = method.stages()

    def oracle(state: Any, batch: Any, noise: Any) -> Any:
        scaled = {name: (batch[name] - state["normalizer"]["mean"]) / state["normalizer"]["std"]
                  for name in ("observations", "next_observations")}  # fmt: skip
        rules = {"penalty": lambda batch, taken: 0.0, "actor_loss": td3bc_actor}
        return td3_step(state, {**batch, **scaled}, noise, q=plain_q, act=relu, full=full, order=order, **rules)

    agree(method, stage, oracle, stage.update if full else stage.between)


# generative policies


@pytest.mark.slow
def test_fbrac() -> None:
    method = make("fbrac", alpha=3.0, q_aggregation="min", **COMMON)

    def oracle(state: Any, batch: Any, draws: Any) -> Any:
        critic, actor, obs = state["critic"], state["actor"], batch["observations"]
        taken = sample_flow(actor.params, batch["next_observations"], draws.next_noise, act=gelu)
        next_q = jnp.minimum(*suite_q(critic.target, batch["next_observations"], taken))
        new, critic_loss = learn_q(critic, batch, suite_q, next_q, share=0.5)

        def loss(params: Any) -> Any:
            action = draws.noise  # steps written out: the gradient goes through all of them
            for k in range(10):
                action = action + 0.1 * field(params, obs, action, jnp.full((B, 1), k / 10), act=gelu)
            values = suite_q(critic.params, obs, jnp.clip(action, -1, 1))
            return 3 * flow_matching_loss(params, batch, *draws.flow, gelu) - values.mean()

        new_actor, value = learn(actor, loss)
        return {"critic": new, "actor": new_actor}, {"critic": critic_loss, "actor": value}

    agree(method, method.stages()[0], oracle)
