"""An environment that raises, or whose process dies, fails its own seed alone: in evaluations and as one learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.evaluate import Evaluator
from harness.online import Rollout
from methods.core import Method, MethodConfig
from tasks.core import RewardTransform
from tasks.simulation.simulators import SimulatorError, cores
from tests.harness.cliff import Abyss, Cliff, On, Shut
from tests.harness.line import Line, LineTask

SEEDS = (10, 11, 12)
STATE = {"policy": jnp.array([1.0, -1.0, 0.0])}  # which way each seed goes


@dataclass(frozen=True)
class Wanderer(Method):
    """Goes its state's way, by steps that chance lengthens."""

    config: Any = MethodConfig()  # noqa: RUF009 (frozen)
    spec: Any = LineTask.spec
    name: ClassVar[str] = "wanderer"

    def candidates(self, state: Any, obs: Any, key: Any, knobs: Any) -> Any:
        del knobs
        pace = 1.0 + 0.3 * jax.random.uniform(key, (obs.shape[0],))
        return (state["policy"] * pace)[:, None, None], jnp.ones((obs.shape[0], 1), bool)


def evaluated(evaluator: Evaluator, state: Any = STATE, seeds: Any = SEEDS, step: int = 7) -> dict[int, Any]:
    return evaluator.run(state, step, seeds, stop=lambda: False, progress=lambda done: None)


@pytest.mark.parametrize(
    ("task", "line"),
    [(On(True, env=Cliff), "ArithmeticError: fell down"), (On(False, env=Cliff), "ArithmeticError: fell down"),
     (On(False, env=Abyss), "died with exit code 3")],
    ids=["here", "in workers", "a process that dies"],
)  # fmt: skip
def test_an_evaluation_fails_for_its_seed_alone(task: On, line: str) -> None:
    """Of the others it finds what it would without; and the next one makes new simulators."""
    with Evaluator(Wanderer(), On(), SEEDS, episodes=3) as evaluator:
        wanted = evaluated(evaluator)
    with Evaluator(Wanderer(), task, SEEDS, episodes=3) as evaluator:
        found = evaluated(evaluator)
        assert isinstance(found[10], SimulatorError) and line in str(found[10])
        assert {seed: found[seed] for seed in (11, 12)} == {seed: wanted[seed] for seed in (11, 12)}
        assert evaluated(evaluator, seeds=[11]) == {11: wanted[11]}
        assert isinstance(evaluated(evaluator, seeds=[10])[10], SimulatorError)
        turned = {"policy": jnp.array([-1.0, 0.0, -1.0])}
        assert not [one for one in evaluated(evaluator, turned).values() if isinstance(one, Exception)]


def test_an_evaluation_in_which_no_simulator_begins_fails_for_all() -> None:
    for cheap in (True, False):
        with Evaluator(Wanderer(), On(cheap, env=Shut), SEEDS, episodes=2) as evaluator:
            found = evaluated(evaluator)
        assert found.keys() == set(SEEDS) and all("shut" in str(error) for error in found.values())


@pytest.mark.parametrize(("env", "cheap"), [(Cliff, True), (Cliff, False), (Shut, False), (Abyss, False)])
def test_a_rollout_goes_on_without_a_simulator_that_failed(env: type[Line], cheap: bool) -> None:
    """A process that dies takes along those that it had beside."""
    lost = {Cliff: [0], Shut: [0, 1, 2], Abyss: list(range(0, 3, min(3, cores())))}[env]
    actions = np.array([[1.0], [-0.3], [0.1]], np.float32)
    seen: dict[type[Line], Any] = {}
    for kind in (Line, env):
        with Rollout(On(cheap, env=kind), (0, 1, 2), np.zeros(3, int), RewardTransform(), {"simulate": 0.0}) as rollout:
            steps = [rollout.step(actions) for _ in range(9)]
            rows = {name: np.stack([row[name] for row, _ in steps]) for name in steps[0][0]} if env is not Shut else {}
            seen[kind] = ({**rows, "starts": np.stack([starts for _, starts in steps])}, rollout.report(),
                          dict(rollout.failed))  # fmt: skip
    (wanted, report, none), (found, other, failed) = seen.values()
    assert not none and sorted(failed) == lost
    alive = [place for place in range(3) if place not in lost]
    for name in found:
        np.testing.assert_array_equal(found[name][:, alive], wanted[name][:, alive])
    for name in report:
        np.testing.assert_array_equal(other[name][alive], report[name][alive])
