"""The suite ogbench-goals through the harness: every method learns for goals, or is refused in one line."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import methods
from core.errors import BadInput
from harness.config import RunSettings, layered, parse_set
from harness.measure import batch_shapes
from harness.plan import RunNode, plan_all, plan_online, plan_run
from harness.train import Algorithm, lane_step, lanes_of, needed
from tasks.core import Dataset, Provenance
from tasks.ogbench_goals import suite
from tests.harness.command import invoke

TASK = suite.get("cube-single-play-v0")
SIZES = RunSettings(seeds=(0,), episodes=5, evaluate_every=20, log_every=10)
REFUSED = {"sfbc", "td3bc"}  # weights of whole episodes, a normaliser of all states


def planned(name: str, *sets: str, preset: str = "smoke", sizes: RunSettings = SIZES) -> RunNode:
    usual = layered("ogbench-goals", preset, "")[1]
    return plan_run(TASK, "data", name, (*usual, *parse_set(sets)), sizes)


def dataset(rows: int = 12) -> dict[str, np.ndarray]:
    rng, held = np.random.default_rng(0), TASK.held
    shapes = {"observations": (held.obs_dim,), "next_observations": (held.obs_dim,), "actions": (held.action_dim,),
              "rewards": (), "masks": (), "terminals": ()}  # fmt: skip
    columns = {name: rng.uniform(-1, 1, (rows, *shape)).astype(np.float32) for name, shape in shapes.items()}
    columns["terminals"] = (np.arange(rows) == rows - 1).astype(np.float32)
    return {**Dataset(columns, Provenance("hand-made", "?", "given")).columns({"remaining", "next_actions"})}


@pytest.mark.parametrize("preset", ["smoke", "laptop"])
@pytest.mark.parametrize("name", sorted(methods.REGISTRY))
def test_every_method_learns_for_goals_or_is_refused(name: str, preset: str) -> None:
    if name in REFUSED:
        with pytest.raises(BadInput, match=rf"^{name}: its stage '\w+' looks at the whole dataset"):
            planned(name, preset=preset)
        return
    method, columns = planned(name, preset=preset).method, dataset()
    lane = jax.tree.map(lambda leaf: leaf[0], lanes_of((0,), [method]))
    parts = jax.eval_shape(lambda lane: method.having(**lane.settings).init(lane.keys), lane)
    held = {column: jnp.asarray(columns[column]) for column in columns if column in needed(method)}
    for number in range(len(method.stages())):
        step = partial(lane_step(Algorithm(method, number), held), own={}, count=jnp.asarray(1))
        state, metrics = jax.eval_shape(step, lane, parts)
        assert metrics and state.keys() == parts.keys()
    with pytest.raises(BadInput, match=r"--online-steps 50: "):
        plan_online(planned(name, preset=preset, sizes=RunSettings(
            seeds=(0,), episodes=5, evaluate_every=20, log_every=10, online_steps=50, online_warmup=5)))  # fmt: skip


@pytest.mark.parametrize(
    ("sets", "line"),
    [
        (["fql.behavior=joint"], r"^fql\.behavior=joint: in tasks of goals imitation and critics learn for goals"),
        (["best_of_n.bank=8"], r"^best_of_n\.bank=8: proposals depend on goals, which every batch draws anew; bank=0$"),
        (["iql.reward_scale=2"], r"^iql: masks, reward_scale, reward_shift, rewards: in tasks of goals rewards come"),
        (["vgf.behavior_weighting=return"], r"^vgf: its stage 'behavior' looks at the whole dataset"),
    ],
)
def test_what_goals_do_not_allow_is_one_line(sets: list[str], line: str) -> None:
    with pytest.raises(BadInput, match=line):
        planned(sets[0].split(".")[0], *sets)


def test_equal_stages_are_one_and_other_goals_are_other_work() -> None:
    """The flow of best_of_n is VGF's; other rules of goals make other critics, and the same flow where they say so."""
    own, other = planned("best_of_n"), planned("vgf")
    assert own.nodes[0].fingerprint == other.nodes[0].fingerprint
    usual = layered("ogbench-goals", "smoke", "")[1]
    changed = plan_run(suite.GoalTask(TASK.name, goals="sharsa"), "data", "best_of_n", usual, SIZES)
    assert changed.nodes[1].fingerprint != own.nodes[1].fingerprint
    assert changed.nodes[0].fingerprint == own.nodes[0].fingerprint  # whose policies learn for the same goals
    assert changed.fingerprint != own.fingerprint


def test_discounts_are_the_benchmarks() -> None:
    for name, gamma in (("cube-single-play-v0", 0.99), ("antmaze-giant-stitch-v0", 0.995),
                        ("humanoidmaze-medium-navigate-v0", 0.995), ("antmaze-large-navigate-v0", 0.99)):  # fmt: skip
        for preset in ("paper", "laptop"):
            usual = layered("ogbench-goals", preset, "")[1]
            assert plan_run(suite.get(name), "data", "iql", usual, SIZES).method.config.discount == gamma


def test_methods_that_nobody_named_are_left_out_where_they_do_not_fit() -> None:
    usual = layered("ogbench-goals", "smoke", "")[1]
    everyone = list(methods.REGISTRY)
    assert {run.method.name for run in plan_all(TASK, "data", everyone, usual, SIZES, named=False)} == (
        set(everyone) - REFUSED)  # fmt: skip
    with pytest.raises(
        BadInput, match=r"^--episodes 7: cube-single-play-v0 has 5 goals in turn, so it takes a multiple"
    ):
        planned("bc", sizes=RunSettings(seeds=(0,), episodes=7, evaluate_every=20, log_every=10))


@pytest.mark.parametrize("name", ["bc", "iql", "vgf", "qc"])
def test_batches_can_be_measured_without_data(name: str) -> None:
    method = planned(name).method
    for number in range(len(method.stages())):
        shapes = batch_shapes(method, number)
        assert shapes["observations"].shape == (method.config.batch_size, TASK.spec.obs_dim)


def test_a_size_that_is_taken_for_a_protocol_is_told() -> None:
    with pytest.raises(BadInput, match=r"^unknown protocol 'laptop' .* \(--preset laptop is one"):
        layered("ogbench-goals", None, "laptop")


@pytest.mark.slow
def test_the_methods_of_the_paper_run_on_a_simulator(tmp_path: Path) -> None:
    names = ["bc", "iql", "best_of_n", "qgf", "vgf", "cfgrl"]
    done = invoke("--suite", "ogbench-goals", "--tasks", TASK.name, "--methods", ",".join(names), "--preset", "smoke",
                  "--data", "generate", "--results", str(tmp_path))  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "6 of 6 runs finished" in done.stderr
    done_by = {path.parents[2].name for path in tmp_path.glob("runs/ogbench-goals/*/*/*/seed-0/episodes.csv")}
    assert done_by == set(names)
