"""The methods that docs/writing-a-method.md and docs/tutorial.md add, taken from there word by word: they fulfil the
contract and run."""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import methods
from methods.core import Method
from tests.harness.command import invoke
from tests.methods.common import make, make_batch, per_row, random_state
from tests.methods.counting import alone, counted

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "writing-a-method.md"
TUTORIAL = ROOT / "docs" / "tutorial.md"
FIRST, SECOND = PAGE.read_text().partition("## A method without a network of its own")[2].split("\n## ")
ROWS = 8


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with added(FIRST, tmp_path_factory.mktemp("methods")) as (name, _):
        yield name


@contextmanager
def added(text: str, folder: Path) -> Iterator[tuple[str, str]]:
    """The example's name and source, while its file and its line are where the text says."""
    source, line = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ((name, place),) = ast.literal_eval("{" + line.strip() + "}").items()
    module = place.partition(":")[0]
    assert f"Write `{module.replace('.', '/')}.py`:" in text
    (folder / f"{module.removeprefix('methods.')}.py").write_text(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
        patch.setattr(methods, "REGISTRY", {**methods.REGISTRY, name: place})
        yield name, source
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


# the second one


OBS = 3.0 * make_batch(ROWS)["observations"]


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The method with the label, small; its source has no more lines than are promised."""
    with added(SECOND, tmp_path_factory.mktemp("flow")) as (name, source):
        assert len(source.splitlines()) < 100 and "velocity - (actions" not in source
        yield make(name, hidden_dims=(12,), flow_steps=3, test_weights=(0.0, 1.0, 3.0))


def test_its_critic_is_iql_s_and_its_flow_learns_from_it(flow: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows without advantage leave the labelled flow as it is; with it they teach it what the plain one learns."""
    critic, actor = flow.stages()
    theirs = make("iql", hidden_dims=(12,)).stages()[0]
    assert (critic.rule, critic.config, critic.trains) == (theirs.rule, theirs.config, theirs.trains)
    assert actor.trains == {"actor"} and actor.reads == critic.trains

    state, batch = random_state(flow), make_batch(ROWS)
    draws = flow.draw(jax.random.key(0), batch)
    slopes = {}
    for sign in (-1.0, 1.0):
        monkeypatch.setattr(type(flow.in_sample), "advantage", lambda *_, sign=sign: jnp.full(ROWS, sign))
        grads = jax.grad(flow.actor_loss)(state["actor"].params, state, batch, draws)
        slopes[sign] = np.asarray(grads["params"]["Embed_0"]["embedding"])
    assert not slopes[-1.0][1].any() and slopes[1.0][1].any()  # the label's own vector
    np.testing.assert_array_equal(slopes[-1.0][0], slopes[1.0][0])


def test_it_goes_from_the_plain_flow_to_the_labelled_one_and_on(flow: Any) -> None:
    """omega = 0 and 1 are the two flows; at 3 the first Euler step goes three times as far as to the labelled one."""
    state, key = random_state(flow), jax.random.key(1)
    params, sampler = state["actor"].params, flow.actor.sampler
    noise = sampler.noise(key, (ROWS,))
    acted = {omega: flow.candidates(state, OBS, key, per_row({"omega": omega}, ROWS))[0][:, 0] for omega in (0, 1)}
    for label, actions in acted.items():
        expected = sampler.sample(params, OBS, noise, jnp.full((), label))
        np.testing.assert_allclose(actions, expected, atol=1e-6)
    assert np.abs(acted[0] - acted[1]).max() > 1e-3
    one = make("advantage_flow", hidden_dims=(12,), flow_steps=1)
    far, plain, labelled = (
        one.candidates(state, OBS, key, per_row({"omega": omega}, ROWS))[0][:, 0] for omega in (3.0, 0.0, 1.0)
    )
    inside = np.abs(np.stack([far, plain, labelled])).max(0) < 1.0  # not clipped
    assert inside.any()
    np.testing.assert_allclose(far[inside], (plain + 3.0 * (labelled - plain))[inside], atol=1e-5)


def test_the_page_lists_the_names_to_know() -> None:
    """Fewer than 25, each where the page says, and all that the examples import among them or among settings' types."""
    rows = re.findall(r"^\| (`[^|]+`) \| `(\w+)\.py` \|", PAGE.read_text(), re.MULTILINE)
    listed = [(name, module) for names, module in rows for name in re.findall(r"`([\w.]+)`", names)]
    assert 15 < len(listed) < 25
    for name, module in listed:
        where: Any = importlib.import_module(f"methods.{module}")
        outer, _, inner = name.partition(".")
        if outer != "Method" or not inner:
            assert hasattr(where, outer), name
        else:
            assert inner in Method.__dataclass_fields__, name
    known = {name for name, _ in listed}
    text = PAGE.read_text() + TUTORIAL.read_text()
    imported = {name.strip() for line in re.findall(r"^from methods\S* import (.*)$", text, re.MULTILINE)
                for name in line.split(",")}  # fmt: skip
    types = {"Fraction", "PositiveInt", "Repeats", "Weight", "BehaviorConfig", "CriticConfig", "SAMPLES", "BC"}
    types |= {"BestOfN", "BestOfNConfig", "Moves"}
    assert imported <= known | types, imported - known - types


# the tutorial's, which tests/test_tutorial.py runs


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with added(TUTORIAL.read_text(), tmp_path_factory.mktemp("search")) as (name, _):
        yield make(name, hidden_dims=(12,), flow_steps=2, test_n=(1, 4), test_rounds=(0, 3))


def test_the_search_is_paid_for_as_declared(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for knobs in search.knobs:
        assert counted(alone(search, knobs), monkeypatch) == search.cost(knobs)


def test_each_round_raises_the_critic_s_value_and_none_leaves_the_samples_where_they_were(search: Any) -> None:
    state, key = random_state(search), jax.random.key(1)
    value = {}
    for rounds in (0, 1, 3):
        actions, valid = search.candidates(state, OBS, key, per_row({"N": 4, "rounds": rounds}, ROWS))
        assert valid.all() and np.abs(actions).max() <= 1.0
        value[rounds] = search.critic.q(state["critic"].params, OBS, actions, search.judging)
    assert (value[0] <= value[1]).all() and (value[1] <= value[3]).all() and (value[0] < value[3]).any()
    still, start = (
        method.candidates(state, OBS, key, per_row({"N": 4, "rounds": rounds}, ROWS))[0]
        for method, rounds in ((search.having(move=0.0), 3), (search, 0))
    )
    np.testing.assert_array_equal(still, start)
