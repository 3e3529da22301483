"""Which of a dataset's actions are imitated most: weights by hand, where they come from, and what they do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import BadInput
from methods.core import TaskSpec
from methods.weighting import BEHAVIOR_WEIGHT, PREFIX, episode_returns, weights
from tests.methods.common import ROWS, SPEC, make, make_batch, random_state


def test_returns_of_episodes_by_hand() -> None:
    """Episodes of 3, 1 and 2 transitions; the last is cut off by the end of the data."""
    rewards, ends = jnp.asarray([1.0, 2, 3, 4, 5, 6]), jnp.asarray([0.0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(episode_returns(rewards, ends), [6, 6, 6, 4, 11, 11])


def test_weights_by_hand() -> None:
    """x = 0, 2 has mean 1 and std 1: exp(-1 / T), exp(1 / T), over their mean; the largest is cut before."""
    raw = np.exp([-2.0, 2.0])
    np.testing.assert_allclose(weights(jnp.asarray([0.0, 2.0]), 0.5, 20.0), raw / raw.mean(), rtol=1e-6)
    cut = np.array([np.exp(-2.0), 3.0])
    np.testing.assert_allclose(weights(jnp.asarray([0.0, 2.0]), 0.5, 3.0), cut / cut.mean(), rtol=1e-6)
    np.testing.assert_allclose(weights(jnp.full(4, 7.0), 1.0, 20.0), 1.0)  # none is better


def test_what_is_imitated_is_weighted() -> None:
    """A weight of 0 takes a row out of the loss and its gradient, one of 2 counts it twice."""
    behavior = make("bc").behavior
    learner, batch = random_state(make("bc"))["behavior"], make_batch(ROWS)
    draws = behavior.sampler.draw(jax.random.key(0), ROWS)
    own = np.where(np.arange(ROWS) < ROWS // 2, 2.0, 0.0).astype(np.float32)
    loss, grads = behavior.gradient(learner, {**batch, BEHAVIOR_WEIGHT: jnp.asarray(own)}, draws)
    half = {name: jnp.asarray(column[: ROWS // 2]) for name, column in batch.items()}
    first, of_first = behavior.gradient(learner, half, jax.tree.map(lambda leaf: leaf[: ROWS // 2], draws))
    assert float(loss) == pytest.approx(float(first), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), grads, of_first)


def test_stages_that_weigh() -> None:
    """By return one stage and the columns it looks at; by advantage a critic of its own before it, as parts that no
    method's own critic is taken for."""
    (plain,) = make("bc").stages()
    (by_return,) = make("bc", behavior_weighting="return").stages()
    assert by_return.columns == {"rewards", "terminals"} and by_return.rewarded and not plain.rewarded
    assert plain.config.items() < by_return.config.items() and plain.complete is None
    judge, joint = make("vgf", behavior_weighting="advantage").stages()
    assert judge.trains == {f"{PREFIX}critic", f"{PREFIX}value"} == joint.reads
    assert joint.trains == {"behavior", "critic"} and joint.prepare is not None
    names = [stage.name for stage in make("fql", behavior_weighting="advantage", behavior="pretrained").stages()]
    assert names == [f"{PREFIX}critic", "behavior", "critic"]
    method = make("vgf", behavior_weighting="advantage")
    assert set(jax.eval_shape(method.init, jax.random.key(0))) == {"behavior", "critic", *judge.trains}
    online = method.online()
    assert online is not None and online.complete is None and not online.columns  # a buffer has no weights


def test_advantages_are_of_single_steps_whatever_the_method_s_own_critic_sees() -> None:
    judge = make("fql", n_step=5, behavior_weighting="advantage").behavior.weighting.judge
    assert judge.critic.discount == 0.99


def test_advantages_become_weights() -> None:
    """Q - V of the judging critic, exponentiated in units of its std."""
    method = make("bc", behavior_weighting="advantage", weighting_temperature=2.0)
    state, data = random_state(method), {name: jnp.asarray(one) for name, one in make_batch(ROWS).items()}
    _, stage = method.stages()
    assert stage.prepare is not None and stage.complete is not None
    data |= stage.prepare(state, data, jax.random.key(0))
    _, more = stage.complete(state, data)
    judge = method.behavior.weighting.judge
    q = np.min(judge.critic.q_values(state[f"{PREFIX}critic"].target, data["observations"], data["actions"]), axis=0)
    x = q - np.asarray(judge.value.v(state[f"{PREFIX}value"].params, data["observations"]))
    raw = np.exp(np.minimum((x - x.mean()) / (2 * x.std()), np.log(20.0)))
    np.testing.assert_allclose(more[BEHAVIOR_WEIGHT], raw / raw.mean(), rtol=2e-4)


def test_advantages_of_chunks_are_refused() -> None:
    spec = TaskSpec(SPEC.obs_dim, 2 * SPEC.action_dim, SPEC.horizon)
    with pytest.raises(BadInput, match="behavior_weighting=advantage judges single actions: chunk=2"):
        make("bc", spec, chunk=2, behavior_weighting="advantage").stages()
    assert make("bc", spec, chunk=2, behavior_weighting="return").stages()
    with pytest.raises(BadInput, match="clip=together imitates all alike"):
        make("qam", clip="together", behavior_weighting="return").stages()
