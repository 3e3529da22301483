"""The critic component: aggregations, where V(s') comes from, and settings that change nothing; all by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import methods
from methods.core import BadInput, Test, neutral
from methods.critic import Critic
from methods.losses import aggregate
from methods.sampling import ROWS as SINGLE
from methods.sampling import Windows
from methods.settings import marked
from tests.methods.common import ROWS, make, make_batch, random_state


def test_mean_minus_std_by_hand() -> None:
    """Of 1, 2, 6: mean 3, population variance (4 + 1 + 9) / 3."""
    values = jnp.array([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]])
    np.testing.assert_allclose(aggregate(values, "mean_minus_std", 0.5), [3 - 0.5 * np.sqrt(14 / 3), 5.0], rtol=1e-6)
    np.testing.assert_allclose(aggregate(values, "mean_minus_std", 0.0), aggregate(values, "mean"), rtol=1e-6)


@pytest.mark.parametrize("values", [[[2.0]], [[3.0], [3.0]]])
def test_it_has_a_slope_where_all_members_agree(values: list[list[float]]) -> None:
    slope = jax.grad(lambda x: aggregate(x, "mean_minus_std", 0.5).sum())(jnp.array(values))
    np.testing.assert_allclose(slope, np.full_like(values, 1 / len(values)), rtol=1e-6)


@pytest.mark.parametrize(("rule", "expected"), [("mean", 4.0), ("max", 9.0), ("online", 2.0)])
def test_the_value_of_proposals(rule: str, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Target values 1, 9, 2; the online critic prefers the third."""
    method = make("best_of_n", target_select=rule, n_particles=3)
    values = {"online": [0.0, 1.0, 2.0], "target": [1.0, 9.0, 2.0]}

    def q(self: Critic, params: str, obs: Any, actions: Any, how: str | None = None) -> Any:
        return jnp.array(values[params])[actions[..., 0].astype(int)]

    monkeypatch.setattr(Critic, "q", q)
    monkeypatch.setattr(type(method), "next_actions", lambda *_: jnp.tile(jnp.arange(3.0)[None, :, None], (1, 1, 2)))
    learner = replace_learner(random_state(method)["critic"])
    found = method.next_value({"critic": learner}, {"next_observations": jnp.zeros((1, 3))}, None)
    np.testing.assert_allclose(found, [expected])


def replace_learner(learner: Any) -> Any:
    """With names for parameters and target, which the stand-in for Q looks up."""
    return learner._replace(params="online", target="target")


def test_iql_s_value_takes_another_aggregation_and_its_choice_the_least() -> None:
    usual, rough = make("ifql"), make("ifql", value_aggregation="mean_minus_std", rho=0.25, critics=4)
    assert (usual.in_sample.critic.aggregation, usual.judging) == ("min", "min")
    assert (rough.in_sample.critic.aggregation, rough.judging, rough.in_sample.critic.members) == (
        "mean_minus_std", "min", 4)  # fmt: skip
    settings = rough.stages()[1].config
    assert (settings["aggregation"], settings["rho"], settings["critics"]) == ("mean_minus_std", 0.25, 4)
    assert not {"aggregation", "rho", "critics"} & usual.stages()[1].config.keys()


@pytest.mark.parametrize("critics", [2, 3, 5])
def test_diffusion_ql_scales_by_another_critic(critics: int) -> None:
    """Whichever is drawn; one alone is refused."""
    method = make("diffusion_ql", critics=critics, diffusion_steps=1, hidden_dims=(8,))
    batch = make_batch(ROWS)
    drawn = {int(method.draw(jax.random.key(seed), batch).which) for seed in range(60)}
    assert drawn == set(range(critics))
    if critics == 2:
        with pytest.raises(BadInput, match=r"^diffusion_ql\.critics=1: "):
            make("diffusion_ql", critics=1)


@pytest.mark.parametrize(
    ("name", "settings", "unused"),
    [
        ("fql", {"rho": 0.3}, {"rho"}), ("fql", {"rho": 0.3, "q_aggregation": "mean_minus_std"}, set()),
        ("iql", {"chunk_mask": "none"}, {"chunk_mask"}), ("iql", {"chunk_mask": "none", "chunk": 5}, set()),
        ("fql", {"chunk": 5, "n_step": 5}, {"n_step"}), ("fql", {"n_step": 5}, set()),
    ],
)  # fmt: skip
def test_settings_without_effect_make_no_other_work(name: str, settings: dict[str, Any], unused: set[str]) -> None:
    method = make(name, **settings)
    plain = replace(method, config=replace(method.config, **{key: vars(make(name).config)[key] for key in unused}))
    assert unused <= neutral(method.config) and not (settings.keys() - unused) & neutral(method.config)
    assert [stage.config for stage in method.stages()] == [stage.config for stage in plain.stages()]


def test_imitation_alone_draws_no_longer_windows_than_it_looks_at() -> None:
    assert make("bc", n_step=5).stages()[0].sample == SINGLE
    assert make("bc", chunk=3).stages()[0].sample == Windows(3, 3, 1.0)
    behavior, _ = make("ifql", chunk=2, n_step=4).stages()
    assert behavior.sample == Windows(2, 2, 1.0)


@pytest.mark.parametrize("name", methods.REGISTRY)
def test_what_is_listed_for_test_time_retrains_nothing(name: str) -> None:
    """The settings that list a knob's values are marked, so that no stage is another for them."""
    method = make(name)
    assert {knob.setting for knob in method.inference} <= marked(method.config, Test)
