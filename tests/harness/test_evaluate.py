"""Evaluation: episodes end where they should, start alike for all, and candidates are what the record says."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import methods
from harness import estimate, throughput_command
from harness.config import RunSettings, parse_set
from harness.evaluate import PROBES, Evaluator, Interrupted
from harness.measure import measure
from harness.plan import RunNode, plan_run
from harness.programs import Program, Stored, programs
from harness.train import initial_state, lanes_of
from methods.core import Method, MethodConfig
from tasks.ogbench import suite as ogbench
from tasks.toy.suite import ToyTask
from tests.harness.line import HORIZON, LineTask

STATE = {"policy": jnp.array([1.0, -1.0, 0.0])}  # which way each of three seeds goes


@dataclass(frozen=True)
class Walker(Method):
    """Always goes one way, at the speed of its knob."""

    config: Any = MethodConfig()  # noqa: RUF009 (frozen)
    spec: Any = LineTask.spec
    name: ClassVar[str] = "walker"
    traces: ClassVar[list[int]] = []

    @property
    def knobs(self) -> tuple[Mapping[str, float], ...]:
        return ({"speed": 1.0}, {"speed": 0.5})

    def candidates(self, state: Any, obs: Any, key: Any, knobs: Any) -> Any:
        self.traces.append(1)
        actions = (state["policy"] * knobs["speed"])[:, None, None] + 0 * obs[:, :1, None]
        return actions, jnp.ones(actions.shape[:-1], bool)


class Looker(Walker):
    """Goes where its seed's number, the state and chance say: all that an episode can depend on."""

    def candidates(self, state: Any, obs: Any, key: Any, knobs: Any) -> Any:
        chance = jax.random.normal(key, (obs.shape[0],))
        actions = jnp.tanh(obs.sum(axis=-1) + state["policy"] + knobs["speed"] * chance)[:, None, None]
        return actions, jnp.ones(actions.shape[:-1], bool)


def rollout(evaluator: Evaluator, step: int = 7) -> list[dict[str, Any]]:
    """Rows of all seeds, in their order."""
    return rows_of(evaluator, STATE, step)


def rows_of(evaluator: Evaluator, state: Any, step: int, **how: Any) -> list[dict[str, Any]]:
    how = {"stop": lambda: False, "progress": lambda done: None, **how}
    found = evaluator.run(state, step, evaluator.seeds, **how)
    return [row for seed in evaluator.seeds for row in found[seed]]  # type: ignore[union-attr]


def by_hand(start: int, pace: float) -> tuple[float, int, int]:
    """Return, length and success of an episode."""
    way = 4 - start if pace > 0 else start + 2
    steps = math.ceil(way / abs(pace)) if pace else HORIZON + 1
    success = pace > 0 and steps <= HORIZON
    length = min(steps, HORIZON)
    return -float(length - success), length, int(success)


def test_episodes_end_where_they_should() -> None:
    shown: list[float] = []
    with Evaluator(Walker(), LineTask(), (10, 11, 12), episodes=3) as evaluator:
        rows = rows_of(evaluator, STATE, 7, progress=shown.append)
    expected = [
        (seed, 7, speed, episode, *by_hand(episode, direction * speed))
        for seed, direction in ((10, 1), (11, -1), (12, 0)) for speed in (1.0, 0.5) for episode in range(3)
    ]  # fmt: skip
    names = ("seed", "step", "speed", "episode", "return", "length", "success")
    assert [tuple(row[name] for name in names) for row in rows] == expected
    assert [row["score"] for row in rows] == [100 * row["success"] + row["return"] for row in rows]
    assert list(rows[0]) == ["seed", "phase", "step", "speed", "episode", "return", "length", "success", "score"]
    ends = {(row["length"], row["success"]) for row in rows}
    assert {
        (6, 0),
        (6, 1),
        (4, 1),
        (2, 0),
    } <= ends  # the cases are all there: time limit, success at it, before, cut off
    assert shown == [k / HORIZON for k in range(1, HORIZON + 1)]


def test_an_evaluation_stops_when_all_episodes_have_ended() -> None:
    calls = []
    with Evaluator(Walker(), LineTask(), (0,), episodes=1) as evaluator:
        state = {"policy": jnp.array([-1.0])}  # over after two steps, four at half speed
        rows = rows_of(evaluator, state, 1, stop=lambda: bool(calls.append(1)))
    assert [row["length"] for row in rows] == [2, 4] and len(calls) == 4


def test_workers_make_no_difference() -> None:
    found = []
    for cheap in (True, False):
        with Evaluator(Looker(), LineTask(cheap), (10, 11, 12), episodes=3) as evaluator:
            found.append([rollout(evaluator), rollout(evaluator, 8)])
            again = rollout(evaluator)
        assert again == found[-1][0]  # an evaluation depends on its step alone
    assert found[0] == found[1]
    assert found[0][0] != [row | {"step": 7} for row in found[0][1]]  # which has its own draws


def test_the_policy_compiles_once() -> None:
    Walker.traces.clear()
    with Evaluator(Walker(), LineTask(), (10, 11, 12), episodes=2) as evaluator:
        for step in (1, 2, 3):
            rollout(evaluator, step)
    assert len(Walker.traces) == 1


def test_every_seed_and_setting_meets_the_same_starts() -> None:
    seen: list[np.ndarray] = []

    def look(lanes: Any, state: Any, obs: Any, knobs: Any, number: Any) -> np.ndarray:
        seen.append(np.asarray(obs))
        return np.zeros((2, 6, 1))

    with Evaluator(Walker(), LineTask(), (4, 9), episodes=3) as evaluator:
        evaluator._act = look  # type: ignore[assignment]
        rollout(evaluator)
    starts = seen[0]
    assert starts.shape == (2, 6, 2) and len(np.unique(starts[0, :3, 1])) == 3
    for seed in range(2):
        for setting in range(2):
            np.testing.assert_array_equal(starts[seed, 3 * setting : 3 * setting + 3], starts[0, :3])


def test_a_wish_to_stop_ends_an_evaluation() -> None:
    answers = iter([False, False, True])
    with Evaluator(Walker(), LineTask(), (10, 11, 12), episodes=1) as evaluator, pytest.raises(Interrupted):
        rows_of(evaluator, STATE, 1, stop=lambda: next(answers))


def test_chosen_seeds_alone_are_rolled_out() -> None:
    """And as they are beside all: what the places of the others hold means nothing, be it NaN."""
    with Evaluator(Looker(), LineTask(), (10, 11, 12), episodes=2) as evaluator:
        whole = rollout(evaluator)
        state = {"policy": STATE["policy"].at[1].set(jnp.nan)}
        found = evaluator.run(state, 7, [12, 10], stop=lambda: False, progress=lambda done: None)
    assert found == {seed: [row for row in whole if row["seed"] == seed] for seed in (10, 12)}


def test_a_seed_whose_actions_are_not_finite_fails_alone() -> None:
    with Evaluator(Looker(), LineTask(), (10, 11, 12), episodes=2) as evaluator:
        whole = rollout(evaluator)
        state = {"policy": STATE["policy"].at[1].set(jnp.nan)}
        found = evaluator.run(state, 7, (10, 11, 12), stop=lambda: False, progress=lambda done: None)
    error = found.pop(11)
    assert str(error) == "stage evaluation: actions not finite at step 7, seed 11" and isinstance(error, Exception)
    assert found == {seed: [row for row in whole if row["seed"] == seed] for seed in (10, 12)}


def test_methods_that_differ_in_float_settings_share_their_programs() -> None:
    kept: dict[Any, Any] = {}

    def keep(key: Any, make: Any) -> Any:
        return kept.setdefault(key, make()) if key not in kept else kept[key]

    class Scaled(Walker):
        def candidates(self, state: Any, obs: Any, key: Any, knobs: Any) -> Any:
            actions, valid = super().candidates(state, obs, key, knobs)
            return self.config.discount * actions, valid

    Walker.traces.clear()
    found = []
    for discount in (1.0, 0.5):
        with Evaluator(Scaled(MethodConfig(discount=discount)), LineTask(), (10, 11, 12), 3, keep) as evaluator:
            found.append([(row["length"], row["success"]) for row in rollout(evaluator)])
    assert len(Walker.traces) == 1
    for discount, ends in zip((1.0, 0.5), found, strict=True):
        assert ends == [by_hand(episode, direction * speed * discount)[1:]
                        for direction in (1, -1, 0) for speed in (1.0, 0.5) for episode in range(3)]  # fmt: skip


def test_methods_without_knobs_have_no_columns() -> None:
    class Plain(Walker):
        knobs = ({},)  # type: ignore[assignment]

        def candidates(self, state: Any, obs: Any, key: Any, knobs: Any) -> Any:
            return super().candidates(state, obs, key, {"speed": jnp.ones(obs.shape[0])})

    with Evaluator(Plain(), LineTask(), (10, 11, 12), episodes=2) as evaluator:
        rows = rollout(evaluator)
    assert len(rows) == 6 and list(rows[0])[:4] == ["seed", "phase", "step", "episode"]


# ---- candidates.npz ----


def probed(name: str, **settings: Any) -> tuple[Any, Any, dict[str, np.ndarray]]:
    """Method, fresh state of two seeds, and the arrays of their `candidates.npz` on the toy, `[s, ...]` where seeds
    differ."""
    config = methods.get(name).Config(hidden_dims=(8,), flow_steps=2, **settings)
    method = methods.get(name)(config, ToyTask.spec)
    state = initial_state(method, lanes_of((0, 1), [method] * 2))
    with Evaluator(method, ToyTask(), (0, 1), episodes=1) as evaluator:
        found = evaluator.candidates(state, ToyTask().load("auto").transitions)
    assert list(found) == [0, 1] and all(np.array_equal(found[0][same], found[1][same])
                                         for same in ("observations", *evaluator.knob_names))  # fmt: skip
    differing = ("candidates", "valid", "actions")
    return method, state, found[0] | {one: np.stack([arrays[one] for arrays in found.values()]) for one in differing}


def test_candidates_of_vgf_are_the_paths_of_its_particles() -> None:
    method, state, arrays = probed("vgf", n_particles=3, test_flow_steps=(0, 1, 2))
    assert {name: array.shape for name, array in arrays.items()} == {
        "observations": (PROBES, 1), "L_test": (3,), "candidates": (2, 3, PROBES, 3, 2),
        "valid": (2, 3, PROBES, 3), "actions": (2, 3, PROBES, 2)}  # fmt: skip
    assert arrays["valid"].dtype == bool and arrays["valid"].all() and list(arrays["L_test"]) == [0, 1, 2]
    starts, obs = arrays["candidates"][:, 0], jnp.asarray(arrays["observations"])
    assert len(np.unique(starts.reshape(-1, 2), axis=0)) > PROBES  # not one draw for all
    for seed in range(2):
        own = jax.tree.map(lambda leaf, seed=seed: leaf[seed], state)
        for steps in (1, 2):
            moved = method.transport(own, obs, jnp.asarray(starts[seed]), steps)
            # float32, and one seed's products are summed in another order than two seeds'
            np.testing.assert_allclose(arrays["candidates"][seed, steps], moved, atol=1e-4)
            assert np.abs(moved - starts[seed]).max() > 1e-3
    assert _taken_is_a_candidate(arrays)


def test_candidates_of_best_of_n_are_nested() -> None:
    _, _, arrays = probed("best_of_n", test_n=(1, 2, 4))
    assert arrays["candidates"].shape == (2, 3, PROBES, 4, 2) and list(arrays["N"]) == [1, 2, 4]
    np.testing.assert_array_equal(arrays["valid"].sum(axis=-1)[0, :, 0], [1, 2, 4])
    for setting in range(3):
        np.testing.assert_array_equal(arrays["candidates"][:, setting], arrays["candidates"][:, 0])
    np.testing.assert_array_equal(arrays["actions"][:, 0], arrays["candidates"][:, 0, :, 0])
    assert _taken_is_a_candidate(arrays)


def _taken_is_a_candidate(arrays: Mapping[str, np.ndarray]) -> bool:
    same = (arrays["candidates"] == arrays["actions"][..., None, :]).all(axis=-1)
    return bool((same & arrays["valid"]).any(axis=-1).all())


# ---- throughput ----


def test_measurements_are_finite_and_positive(tmp_path: Path) -> None:
    config = methods.get("bc").Config(hidden_dims=(8,), flow_steps=2, batch_size=8)
    method = methods.get("bc")(config, ToyTask.spec)
    found = measure(method, len(method.stages()) - 1, (0, 1), steps=3, repeats=2)
    assert (found.method, found.stage, found.seeds) == ("bc", "behavior", 2)
    for value in (found.ms_scan, found.ms_loop, found.compile_s, found.ratio):
        assert math.isfinite(value) and value > 0
    assert found.ratio == found.ms_scan / found.ms_loop
    throughput_command._write(tmp_path / "t.csv", [found, found])
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and float(rows[0]["ratio"]) == pytest.approx(found.ratio, rel=1e-3)  # four digits
    assert rows[0]["times_fql"] == "nan"  # which was not measured
    other = replace(found, method="qc_fql fql", ms_scan=0.5 * found.ms_scan)
    assert throughput_command.beside(found, [found, other]) == 2
    assert math.isnan(throughput_command.beside(found, [replace(other, precision="bfloat16")]))
    alone = measure(method, len(method.stages()) - 1, (0,), steps=3, repeats=1, loop=False)
    assert alone.ms_scan > 0 and math.isnan(alone.ms_loop)


def whole(runs: list[RunNode]) -> list[Program]:
    """The programs of runs of which nothing is stored."""
    trials = [trial for run in runs for trial in run.trials()]
    return programs(trials, lambda lane: Stored(), lambda lane: 10)


@pytest.mark.slow
def test_an_estimate_covers_every_program() -> None:
    settings = RunSettings(seeds=(0, 1), episodes=1, evaluate_every=10, log_every=5)
    sizes = parse_set(["hidden_dims=8", "flow_steps=2", "steps=10", "behavior_steps=1000"])
    made = whole([plan_run(ToyTask(), "?", name, sizes, settings) for name in ("bc", "best_of_n")])
    found = estimate.seconds_of(made, Console(quiet=True))
    assert set(found) == {program.first.fingerprint for program in made} and min(found.values()) > 0


def test_programs_of_a_kind_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an update weighs does not change how long it takes; how wide its networks are does."""
    measured: list[tuple[str, int]] = []

    def once(method: Any, number: int, seeds: Any, **how: Any) -> Any:
        measured.append((method.stages()[number].name, len(seeds)))
        return SimpleNamespace(ms_scan=float(len(measured)))

    monkeypatch.setattr(estimate, "measure", once)
    settings = RunSettings(seeds=(0, 1), episodes=1, evaluate_every=10, log_every=5)
    names = ("cube-single-play", "humanoidmaze-medium-navigate")
    cube, maze = (ogbench.get(f"{name}-singletask-v0") for name in names)
    runs = [plan_run(task, "?", "fql", parse_set([f"hidden_dims={width}", "steps=10"]), settings)
            for task, width in ((cube, 8), (maze, 8), (cube, 16))]  # fmt: skip
    assert runs[0].resolved.config.alpha != runs[1].resolved.config.alpha
    found = estimate.seconds_of(whole(runs), Console(quiet=True))
    assert measured == [("joint", 2), ("joint", 2)]
    first, second, third = (found[run.lanes(0)[-1].fingerprint] for run in runs)
    assert first == second != third
