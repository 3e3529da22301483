"""Action chunks and n-step returns in every method: shapes, and what a window across an episode's end may not touch."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import methods
from core.errors import BadInput
from harness.train import needed
from methods.behavior import Behavior, BehaviorConfig, imitated
from methods.core import ControlConfig, Stage, TaskSpec
from methods.critic import Critic, CriticConfig
from methods.samplers import gaussian_log_prob, weighted
from methods.sampling import ROWS as ROWS_ALONE
from methods.sampling import SUCCESSORS, Windows
from tests.methods.common import SMALL, SPEC, make, make_batch, per_row, random_state
from tests.methods.test_sampling import pick_of

ROWS, CHUNK, STEPS = 24, 2, 3
BANK = {"behavior": "pretrained", "bank": 4}
OTHERS: dict[str, dict[str, Any]] = {"vgf-bank": BANK, "best_of_n-iql": {"critic": "iql"}}
KINDS = {"chunk": {"chunk": CHUNK}, "n_step": {"n_step": STEPS}}
CHUNKED = [name for name in methods.REGISTRY if name != "sfbc"]
QUICK = {("rebrac", "n_step"), ("fql", "chunk"), ("vgf", "chunk"), ("bc", "chunk")}
CASES: list[Any] = [pytest.param((name, kind), marks=() if (name, kind) in QUICK else pytest.mark.slow)
                    for name in (*CHUNKED, *OTHERS) for kind in KINDS]  # fmt: skip


class Case:
    """A method that learns from windows, a dataset of 64 transitions, and a batch of it."""

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        method = name.partition("-")[0]
        self.h = KINDS[kind].get("chunk", 1)
        sizes = {"hidden_dims": (8,), "learning_rate": 3e-3, **SMALL.get(method, {}), **OTHERS.get(name, {})}
        self.method = make(method, SPEC.chunked(self.h), **{**sizes, **KINDS[kind]})
        self.stages: tuple[Stage, ...] = self.method.stages()
        self.length = KINDS[kind].get("n_step", self.h)

    @cached_property
    def state(self) -> Any:
        return random_state(self.method)

    @cached_property
    def batch(self) -> dict[str, np.ndarray]:
        columns: dict[str, Any] = {name: column for name, column in make_batch(64).items() if name in self.columns}
        columns["terminals"] = np.arange(64) % 5 == 4
        for stage in self.stages:
            if stage.prepare:
                columns |= stage.prepare(self.state, columns, jax.random.key(0))
            if stage.complete:
                columns |= stage.complete(self.state, columns)[1]
        columns["terminals"] = columns["terminals"].astype(np.float32)
        drawn = self.method.sample.draw(pick_of(columns), 64, jax.random.key(1), ROWS)
        return {name: np.asarray(column) for name, column in drawn.items()}

    @property
    def columns(self) -> frozenset[str]:
        return needed(self.method)

    @cached_property
    def updates(self) -> list[Any]:
        return [jax.jit(stage.update) for stage in self.stages]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


def near(a: Any, b: Any) -> bool:
    return all(np.allclose(x, y, 1e-4, 1e-6) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_every_stage_draws_the_windows_that_it_learns_from(case: Case) -> None:
    """A behaviour that learns alone looks at no rewards, so it has windows of its chunks: rows, of single actions."""
    for stage in case.stages:
        length = case.h if stage.trains == {"behavior"} else case.length
        if length == 1:
            assert stage.sample == ROWS_ALONE
        else:
            assert isinstance(stage.sample, Windows)
            assert (stage.sample.length, stage.sample.chunk) == (length, case.h)
    online = case.method.online()
    assert online is None or isinstance(online.sample, Windows)
    assert case.batch["actions"].shape == (ROWS, 2 * case.h) and case.batch["valid"].shape == (ROWS, case.length)
    assert {"valid", "terminals"} <= case.batch.keys()
    whole = case.batch["valid"][:, -1]
    assert 0 < whole.sum() < ROWS


def test_updates_are_finite_and_actions_come_in_chunks(case: Case) -> None:
    for stage, update in zip(case.stages, case.updates, strict=True):
        new, metrics = update(case.state, case.batch, jax.random.key(1))
        assert metrics and all(np.isfinite(value) for value in metrics.values()), stage.name
        assert jax.tree.all(jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, new, case.state))
    obs, knobs = case.batch["observations"], per_row(case.method.knobs[-1], ROWS)
    for act in (lambda: case.method.act(case.state, obs, jax.random.key(2), knobs),
                lambda: case.method.explore(case.state, obs, jax.random.key(2))):  # fmt: skip
        actions = jax.eval_shape(act)
        assert actions.shape == (ROWS, 2 * case.h) and actions.dtype == jnp.float32


def test_what_crosses_an_episode_s_end_has_no_weight_in_the_critic(case: Case) -> None:
    """Rewards, masks and successors of such windows may be anything: losses and parts are the same, bit for bit; to
    rounding in A-VGF, where one norm clips the steps of all particles, whose Adam undoes it."""
    rng, crossing = np.random.default_rng(1), case.batch["valid"][:, -1] == 0
    other = dict(case.batch)
    for name in ({"rewards", "masks"} | SUCCESSORS) & other.keys():
        noise = rng.normal(size=other[name].shape).astype(np.float32)
        mine = np.reshape(crossing, (-1,) + (1,) * (noise.ndim - 1))
        other[name] = np.where(mine, noise, other[name])
    for update in case.updates:
        one, two = (update(case.state, batch, jax.random.key(1)) for batch in (case.batch, other))
        learned = {"critic", "value"} & case.state.keys()
        losses = [name for name in one[1] if name.startswith(("critic/loss", "value/loss"))]
        ours, theirs = (
            ([new[part] for part in learned], [metrics[name] for name in losses]) for new, metrics in (one, two)
        )
        assert (near if case.name == "avgf" else same)(ours, theirs)


def test_what_is_whole_has_weight(case: Case) -> None:
    """The same of the other windows changes the critic's loss, where there is one."""
    whole = case.batch["valid"][:, -1] == 1
    other = {**case.batch}
    if "rewards" not in other:
        return
    other["rewards"] = np.where(whole, other["rewards"] + 1.0, other["rewards"]).astype(np.float32)
    found = [
        update(case.state, batch, jax.random.key(1))[1] for update in case.updates for batch in (case.batch, other)
    ]
    losses = [metrics["critic/loss"] for metrics in found if "critic/loss" in metrics]
    assert len(losses) == 2 and losses[0] != losses[1]


def test_a_method_of_whole_returns_refuses() -> None:
    for settings in KINDS.values():
        with pytest.raises(BadInput, match=r"^sfbc takes single actions and whole returns: chunk=\d, n_step=\d$"):
            make("sfbc", **settings)


def test_returns_shorter_than_a_chunk_are_refused() -> None:
    with pytest.raises(BadInput, match=r"^n_step=2 is less than chunk=5: "):
        ControlConfig(chunk=5, n_step=2)
    assert [ControlConfig(chunk=5, n_step=n).window for n in (1, 5, 7)] == [5, 5, 7]


# ---- imitation ----

VALID = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("settings", "weights"),
    [({"chunk": 3}, [[0.0], [1.0], [0.0]]),
     ({"chunk": 3, "chunk_mask": "step"}, [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]]),
     ({"chunk": 3, "chunk_mask": "none"}, None),
     ({"chunk": 2, "n_step": 3}, [[1.0], [1.0], [0.0]]),
     ({"chunk": 2, "n_step": 3, "chunk_mask": "step"}, [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]),
     ({"n_step": 3}, [[1.0], [1.0], [1.0]]),  # the first action alone, which is of the episode
     ({"n_step": 3, "chunk_mask": "step"}, [[1, 1], [1, 1], [1, 1]])],
)  # fmt: skip
def test_which_terms_are_imitated(settings: dict[str, Any], weights: Any) -> None:
    config = ControlConfig(**settings)
    batch = {"valid": VALID, "actions": jnp.zeros((3, 2 * config.chunk))}
    found = imitated(batch, config)
    assert (found is None) == (weights is None) and (weights is None or found.tolist() == weights)  # type: ignore[union-attr]
    assert imitated({"actions": batch["actions"]}, config) is None  # rows


def test_terms_that_are_not_imitated_count_as_0_and_not_as_absent() -> None:
    """Of two rows and four terms: the mean is over all of them (Q-chunking's and QAM's codes)."""
    terms = jnp.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    assert float(weighted(terms, None)) == 36 / 8
    assert float(weighted(terms, jnp.array([[0.0], [1.0]]))) == 26 / 8
    assert float(weighted(terms, jnp.array([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))) == 29 / 8
    log_prob = gaussian_log_prob(jnp.zeros((1, 2)), jnp.zeros((1, 2)), jnp.array([[1.0, 2.0]]), jnp.array([[1.0, 0.0]]))
    assert float(log_prob[0]) == pytest.approx(-0.5 - 0.5 * np.log(2 * np.pi))


@pytest.mark.parametrize(
    ("sampler", "mask", "first", "second"),
    [("flow", "window", False, False), ("flow", "none", True, True), ("gaussian", "step", True, False),
     ("flow", "step", True, True)],  # whose network sees the whole noisy chunk, as Q-chunking's does
)  # fmt: skip
def test_actions_of_another_episode_are_not_imitated_unless_told_to(
    sampler: str, mask: str, first: bool, second: bool
) -> None:
    """Whether the step of learning depends on the two actions of a window whose second is another episode's."""
    config = BehaviorConfig(hidden_dims=(8,), chunk=2, chunk_mask=mask, sampler=sampler, flow_steps=2)  # type: ignore[arg-type]
    behavior, rng = Behavior.of(TaskSpec(3, 4, 5), config), np.random.default_rng(0)
    shapes = jax.eval_shape(behavior.init, jax.random.key(0))
    learner = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) ** 2, leaf.dtype), shapes)
    batch = {"observations": rng.normal(size=(2, 3)), "actions": rng.uniform(-1, 1, (2, 4)),
             "valid": jnp.array([[1.0, 1.0], [1.0, 0.0]])}  # fmt: skip
    update = jax.jit(lambda batch: behavior.update(learner, batch, behavior.sampler.draw(jax.random.key(1), 2)))
    for columns, expected in ((slice(0, 2), first), (slice(2, 4), second)):
        other = np.array(batch["actions"])
        other[1, columns] += 0.5
        assert same(update(batch), update({**batch, "actions": other})) != expected


# ---- the critic ----


class Known(Critic):
    """Q_k(s, a) = params_k + s + sum a."""

    def q_values(self, params: Any, obs: Any, actions: Any) -> Any:
        return params[:, None] + obs[..., 0] + actions.sum(axis=-1)


def test_the_td_loss_of_windows_by_hand() -> None:
    """Q = (1, 2) + s + sum a = (1, 2), (3, 4), (2, 3); targets 0, 1, 5; the second window crosses an episode's end.
    Squares: 1 + 4, of the second 4 + 9, 9 + 4; so 18 over three rows, or half of that a member."""
    config = CriticConfig(chunk=2)
    batch = {"observations": jnp.array([[0.0], [1.0], [0.0]]), "valid": jnp.array([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]),
             "actions": jnp.array([[0.0, 0.0], [0.5, 0.5], [0.25, 0.75]])}  # fmt: skip
    params, target = jnp.array([1.0, 2.0]), jnp.array([0.0, 1.0, 5.0])
    rows = {name: column for name, column in batch.items() if name != "valid"}
    for loss, expected, of_rows in (("sum", 18 / 3, 31 / 3), ("mean", 18 / 6, 31 / 6)):
        critic = Known.of(TaskSpec(1, 2, 5), config, loss=loss)
        found, value = critic.td_loss(params, batch, target)
        assert float(found) == pytest.approx(expected) and float(value) == pytest.approx(15 / 6)
        assert float(critic.td_loss(params, rows, target)[0]) == pytest.approx(of_rows)


@pytest.mark.parametrize(("settings", "power"), [({}, 1), ({"chunk": 5}, 5), ({"n_step": 3}, 3),
                                                  ({"chunk": 2, "n_step": 3}, 3)])  # fmt: skip
def test_values_are_discounted_by_the_whole_window_even_where_it_is_cut(settings: dict[str, Any], power: int) -> None:
    """r + gamma^h mask V(s'): -1.5 + 0.5^h x 8, and -1 alone where the task ended."""
    critic = Critic.of(TaskSpec(1, 1, 5), CriticConfig(discount=0.5, **settings))
    batch = {"rewards": jnp.array([-1.5, -1.0]), "masks": jnp.array([1.0, 0.0])}
    assert critic.target(batch, jnp.array([8.0, 8.0])).tolist() == [-1.5 + 8 * 0.5**power, -1.0]


def test_rebrac_s_penalty_is_on_the_chunk_that_follows() -> None:
    """alpha |a~' - a'|^2 over both steps' actions; nothing where the episode does not have them all."""
    method = make("rebrac", SPEC.chunked(2), chunk=2, alpha_critic=0.5)
    batch = {"next_actions": jnp.array([[0.0, 0.0, 0.5, 0.5], [0.0] * 4]), "terminals": jnp.array([0.0, 1.0])}
    penalty = method.penalty(batch, jnp.array([[1.0, 0.0, 0.5, 0.0], [1.0] * 4]))
    assert penalty.tolist() == [0.5 * (1.0 + 0.25), 0.0]


def test_of_single_actions_qc_fql_is_fql() -> None:
    """One stage serves both, and not where actions come in chunks."""
    fql, single, chunked = make("fql", alpha=3.0), make("qc_fql", alpha=3.0, chunk=1), make("qc_fql", alpha=3.0)
    assert single.stages()[-1].config == fql.stages()[-1].config and single.sample == fql.sample
    assert chunked.stages()[-1].config != fql.stages()[-1].config
