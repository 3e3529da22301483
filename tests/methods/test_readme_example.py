"""The method that README.md adds, taken from there word by word: it fulfils the contract and runs."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import methods
from tests.harness.command import invoke
from tests.methods.common import make, make_batch, per_row, random_state
from tests.methods.counting import alone, counted

ROOT = Path(__file__).parents[2]
ROWS = 8


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The example's name, once its file and its line are where the README says."""
    section = (ROOT / "README.md").read_text().partition("### Add a method")[2].partition("### Add a task")[0]
    source, line = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    ((name, place),) = ast.literal_eval("{" + line.strip() + "}").items()
    module = place.partition(":")[0]
    assert f"Write `{module.replace('.', '/')}.py`:" in section
    folder = tmp_path_factory.mktemp("methods")
    (folder / f"{module.removeprefix('methods.')}.py").write_text(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
        patch.setattr(methods, "REGISTRY", {**methods.REGISTRY, name: place})
        yield name
    sys.modules.pop(module, None)
    vars(methods).pop(module.removeprefix("methods."), None)


@pytest.fixture(scope="module")
def method(name: str) -> Any:
    return make(name, hidden_dims=(12,), flow_steps=2, test_n=(2, 5))


def test_its_stage_trains_its_parts(name: str, method: Any) -> None:
    (stage,) = method.stages()
    state, batch = random_state(method), {key: make_batch(ROWS)[key] for key in method.fields}
    assert set(state) == stage.trains and type(method).name == name
    new, metrics = jax.jit(stage.update)(state, batch, jax.random.key(0))
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
    assert set(metrics) == {"behavior/loss"} and np.isfinite(metrics["behavior/loss"])


def test_it_acts_by_a_behaviour_sample_within_the_box(method: Any) -> None:
    """Each row by its own observation and knobs; no key is used twice."""
    state, obs, act = random_state(method), 3.0 * make_batch(ROWS)["observations"], jax.jit(method.act)
    knobs = {"N": jnp.array([2, 5] * (ROWS // 2))}
    actions = act(state, obs, jax.random.key(1), knobs)
    assert actions.shape == (ROWS, 2) and np.abs(actions).max() <= 1.0
    for value in (2, 5):
        alone = act(state, obs, jax.random.key(1), per_row({"N": value}, ROWS))
        mine = np.asarray(knobs["N"]) == value
        np.testing.assert_array_equal(alone[mine], actions[mine])
    assert act._cache_size() <= 2  # knobs are data: one program for integers, one for floats
    with jax.debug_key_reuse(True):
        jax.jit(method.act).lower(state, obs, jax.random.key(2), knobs)


def test_it_costs_what_it_declares(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for knobs in method.knobs:
        assert counted(alone(method, knobs), monkeypatch) == method.cost(knobs) == (2 * knobs["N"], 0)


@pytest.mark.parametrize("n, best", [(3, 1.0), (5, 3.0)])
def test_it_takes_the_medoid_of_those_in_play(method: Any, n: int, best: float) -> None:
    """On a line the medoid is the median: of 0, 1, 3 it is 1; with 10 and 11 it is 3."""
    candidates = jnp.array([0.0, 1.0, 3.0, 10.0, 11.0])[None, :, None]
    chosen = method.choose({}, jnp.zeros((1, 3)), candidates, jnp.arange(5)[None] < n, jax.random.key(0))
    np.testing.assert_array_equal(chosen, [[best]])


def test_it_runs_and_shares_the_behaviour(name: str, tmp_path: Path) -> None:
    done = invoke("--methods", f"bc,{name}", "--preset", "smoke", "--results", str(tmp_path))
    assert done.exit_code == 0 and "2 of 2 runs finished" in done.stderr, done.stderr
    path, other = sorted((tmp_path / "runs" / "toy" / "toy" / name).glob("*/seed-*/run.json"))
    content = json.loads(path.read_text())
    assert content["seed"] == 0 and json.loads(other.read_text())["status"] == "finished"
    assert content["status"] == "finished" and content["knobs"] == ["N"]
    assert [cost["passes"] for cost in content["inference"]["costs"]] == [80, 320]
    assert content["config"]["test_n"] == {"value": [8, 32], "origin": "default"}
    assert len(list((tmp_path / "artifacts").iterdir())) == 2  # BC's stage is the method's, for each seed
    with np.load(path.parent / "candidates.npz") as found:
        assert found["N"].tolist() == [8, 32] and found["valid"][:, 0].sum(axis=-1).tolist() == [8, 32]
