"""Settings: which layer wins, what fits a key, and that the tables and presets we ship name what exists."""

from __future__ import annotations

import csv
from dataclasses import fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest

import harness.config
import methods
import tasks
from harness.config import (
    Override,
    RunSettings,
    check_keys,
    parse_set,
    preset,
    presets,
    protocol,
    resolve,
)
from harness.plan import Unfit, plan_run
from methods.core import BadInput, Fraction, MethodConfig, Static, Switch
from tasks.d4rl import suite as d4rl

PROTOCOLS = [(suite, name) for suite in tasks.SUITES for name in tasks.about(suite).protocols]
TABLES = {path: (suite, name) for suite, name in reversed(PROTOCOLS)
          for file in protocol(suite, name).files(online=True)
          if (path := tasks.about(suite).folder / file).exists()}  # fmt: skip
"""Every table of settings, and the first protocol that reads it."""
PRESETS = [(suite, name) for suite in tasks.SUITES for name in presets(suite)]


def vgf(*assignments: str) -> Any:
    """VGF's settings on a task that no table knows, with `--set` assignments."""
    return resolve("vgf", "none", "none", parse_set(assignments)).config


# ---- layers ----


def test_later_layers_win_and_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    table = [("cube-*", None, "tau", "0.1"), ("cube-*", "vgf", "alpha", "2"), ("cube-*", "fql", "alpha", "3"),
             ("ant*", "vgf", "step_size", "9"), ("cube-*", "vgf", "discount", "0.5")]  # fmt: skip
    rows = tuple((pattern, Override(method, key, value, "a paper")) for pattern, method, key, value in table)
    monkeypatch.setattr(harness.config, "_table", lambda suite, protocol, online: rows)
    monkeypatch.setattr(harness.config, "presets", lambda suite: {"p": {"seeds": 3, "set": {"tau": 0.2, "steps": 7}}})
    sizes, from_preset = preset("ogbench", "p")
    assert sizes == {"seeds": 3}
    layers = (*from_preset, *parse_set(["steps=8", "vgf.discount=0.25", "fql.tau=0.7"]))
    resolved = resolve("vgf", "ogbench", "cube-single", layers)
    found = {key: (getattr(resolved.config, key), resolved.origins[key])
             for key in ("step_size", "alpha", "tau", "steps", "discount")}  # fmt: skip
    assert found == {"step_size": (0.1, "default"), "alpha": (2.0, "a paper"), "tau": (0.2, "preset p"),
                     "steps": (8, "--set"), "discount": (0.25, "--set")}  # fmt: skip
    assert set(resolved.origins) == {field.name for field in fields(resolved.config)}
    assert resolve("fql", "ogbench", "cube-single", layers).config.alpha == 3.0
    assert resolve("vgf", "ogbench", "antmaze", ()).config.step_size == 9.0


def test_a_key_for_all_skips_methods_without_it() -> None:
    layers = parse_set(["n_particles=9"])
    assert resolve("bc", "none", "none", layers).config == methods.get("bc").Config()
    assert resolve("vgf", "none", "none", layers).config.n_particles == 9


# ---- values ----


@pytest.mark.parametrize(
    "assignment, value",
    [
        ("steps=12", 12), ("learning_rate=1e-3", 1e-3), ("learning_rate=1", 1.0), ("train_flow_steps=0", 0),
        ("discount=0", 0.0), ("sampler=gaussian", "gaussian"), ("maxent=off", False), ("maxent=True", True),
        ("maxent=0", False), ("test_flow_steps=3", (3,)), ("test_flow_steps=0, 2,5", (0, 2, 5)),
        ("hidden_dims=8,8,", (8, 8)), (" vgf.steps = 5", 5),
    ],
)  # fmt: skip
def test_values_become_what_their_key_declares(assignment: str, value: Any) -> None:
    key = assignment.partition("=")[0].strip().removeprefix("vgf.")
    found = getattr(vgf(assignment), key)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "assignment, complaint",
    [
        ("steps=0", "positive"), ("steps=-3", "positive"), ("steps=1.5", "a whole number"),
        ("steps=many", "a whole number"), ("learning_rate=0", "positive"), ("learning_rate=fast", "a number"),
        ("learning_rate=nan", "finite"), ("learning_rate=inf", "finite"), ("discount=-inf", "finite"),
        ("discount=-0.1", "within [0, 1]"), ("tau=3", "within [0, 1]"), ("alpha=-1", "positive"),
        ("train_flow_steps=-1", "from 0 to 100,000"), ("sampler=Flow", "flow, gaussian, diffusion"),
        ("maxent=maybe", "on or off"), ("hidden_dims=8,0", "positive"), ("hidden_dims=8;8", "a whole number"),
        ("test_flow_steps=,", "a list of values"), ("test_flow_steps=0,-1", "from 0 to 100,000"),
        ("test_flow_steps=1,1", "a list of different values"),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_are_refused(assignment: str, complaint: str) -> None:
    with pytest.raises(BadInput) as caught:
        vgf(assignment)
    line = str(caught.value)
    assert line.startswith(f"--set: {assignment} is not ") and line.endswith(complaint)


@pytest.mark.parametrize("hint", [Annotated[float, Static], Annotated[Fraction, Switch]])
def test_a_role_is_no_limit(hint: Any) -> None:
    assert harness.config._coerce(Override(None, "rate", "0.5", "--set"), get_args(hint)) == 0.5


# ---- names ----


@pytest.mark.parametrize(
    "assignment, complaint",
    [
        ("step_sise=1", r"no such setting in any of vgf, bc; did you mean 'step_size'\?"),
        ("vgf.step_sise=1", r"no such setting in vgf; did you mean 'step_size'\?"),
        ("bc.n_particles=1", "n_particles: no such setting in bc"),
        ("fql.alpha=1", "fql is not among --methods vgf, bc"),
    ],
)
def test_overrides_that_reach_nothing_are_refused(assignment: str, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        check_keys(("vgf", "bc"), parse_set([assignment]))


def test_overrides_that_reach_something_pass() -> None:
    check_keys(("vgf", "bc"), parse_set(["n_particles=1", "bc.steps=1", "steps=2"]))


@pytest.mark.parametrize("assignment", ["steps", "steps=", "=5", ""])
def test_malformed_assignments(assignment: str) -> None:
    with pytest.raises(BadInput, match=r"expected \[METHOD.\]KEY=VALUE"):
        parse_set([assignment])


@pytest.mark.parametrize("assignment", ["vgff.steps=5", "vgf.a.steps=5", ".steps=5"])
def test_unknown_methods(assignment: str) -> None:
    with pytest.raises(BadInput, match=r"unknown method .*; (did you mean 'vgf'\?|valid: avgf, bc)"):
        parse_set([assignment])


def test_unknown_setting_of_a_table_names_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    row = ("*", Override("vgf", "step_sise", "1", "Table 7"))
    monkeypatch.setattr(harness.config, "_table", lambda suite, protocol, online: (row,))
    with pytest.raises(BadInput, match=r"^Table 7: vgf has no setting 'step_sise'; did you mean 'step_size'\?$"):
        resolve("vgf", "ogbench", "cube", ())


def test_unknown_preset() -> None:
    with pytest.raises(BadInput, match=r"unknown preset 'smok' for suite toy; did you mean 'smoke'\?"):
        preset("toy", "smok")


# ---- what we ship ----


@pytest.mark.parametrize("table", TABLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_table_rows_name_what_exists(table: Path) -> None:
    suite, name = TABLES[table]
    names = tasks.suite(suite).names()
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        assert set(row) == {"tasks", "method", "key", "value", "source"} and all(row.values()), row
        matched = [one for one in names if fnmatchcase(one, row["tasks"])]
        assert matched, row
        reached = list(methods.REGISTRY) if row["method"] == "*" else [row["method"]]
        having = [one for one in reached if row["key"] in {field.name for field in fields(methods.get(one).Config)}]
        assert having, row
        for one in having:
            resolve(one, suite, matched[0], (), protocol=name)  # its value fits


@pytest.mark.parametrize("suite, name", PRESETS)
def test_presets_name_what_exists_and_plan(suite: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if tasks.family(suite) == "language":
        pytest.importorskip("torch")
    monkeypatch.setattr("harness.files._commit", lambda name, revision: "c0" * 20)  # no hub here
    sizes, overrides = preset(suite, name)
    family = tasks.family(suite)
    check_keys(methods.registry(family), overrides, family)
    settings = RunSettings(**sizes | {"seeds": tuple(range(sizes["seeds"]))})
    for task in tasks.select(suite, ())[::20]:
        for method in methods.registry(family):
            try:
                run = plan_run(task, "data", method, overrides, settings)
            except Unfit:  # of goals, which some methods cannot learn for: `test_goals_suite.py` says which
                continue
            trained = any(node.stage.steps for node in run.nodes)  # nothing is where all parts are given
            assert run.evaluation_steps()[-1] >= trained


def test_every_suite_has_presets_and_no_table_is_orphaned() -> None:
    assert {suite for suite, name in PRESETS if name == "smoke"} == set(tasks.SUITES)
    folder = Path(tasks.__file__).parent
    assert set(folder.rglob("settings*.csv")) == set(TABLES) and len(TABLES) == 7
    for name in ("suite.toml", "presets.toml", "suite.py"):
        assert {path.parent for path in folder.rglob(name)} == {tasks.about(suite).folder for suite in tasks.SUITES}


def test_a_suite_is_a_folder_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tasks.SUITES, "mine", "toy")
    assert tasks.family("mine") == "control" and tasks.about("mine").unit == "true reward [100 = better mode]"
    assert list(presets("mine")) == ["cpu", "paper", "smoke"] and preset("mine", None)[0]["seeds"] == 5
    assert resolve("vgf", "mine", "toy", ()).origins["hidden_dims"] == "ours"
    assert [task.name for task in tasks.select("mine", ())] == ["toy"]
    for read in (tasks.about, tasks.suite, presets):
        with pytest.raises(BadInput, match=r"^unknown suite 'min'; did you mean 'mine'\?$"):
            read("min")


def test_an_online_phase_has_settings_of_its_own_in_both_phases() -> None:
    soccer, cube = "antsoccer-arena-navigate-singletask-v0", "cube-double-play-singletask-v0"
    assert [resolve("fql", "ogbench", soccer, (), online=online).config.alpha for online in (False, True)] == [10, 30]
    assert resolve("fql", "ogbench", cube, (), online=True).config.alpha == 300
    given = resolve("fql", "ogbench", soccer, parse_set(["fql.alpha=7"]), online=True)
    assert given.config.alpha == 7 and given.origins["alpha"] == "--set"


def test_each_method_has_the_settings_that_mean_something_for_it() -> None:
    """A flow of particles is no setting of best-of-N, and IFQL's critic is no choice."""
    with pytest.raises(BadInput, match="no such setting in best_of_n"):
        check_keys(("vgf", "best_of_n"), parse_set(["best_of_n.train_flow_steps=3"]))
    with pytest.raises(BadInput, match=r"critic=td is not one of iql$"):
        resolve("ifql", "toy", "toy", parse_set(["ifql.critic=td"]))
    assert resolve("idql", "toy", "toy", parse_set(["critic=floq"])).config.critic == "iql"  # which others take
    assert resolve("fql", "toy", "toy", parse_set(["critic=floq"])).config.critic == "floq"
    check_keys(("idql", "fql"), parse_set(["critic=floq"]))
    check_keys(("idql",), parse_set(["critic=iql"]))
    with pytest.raises(BadInput, match=r"^--set critic: no such setting in any of idql, ifql; "):
        check_keys(("idql", "ifql"), parse_set(["critic=floq"]))


def test_what_is_made_here_has_the_settings_of_what_it_imitates() -> None:
    def settings(task: str) -> list[MethodConfig]:
        return [resolve(name, "d4rl", task, ()).config for name in methods.REGISTRY]

    for task in d4rl.LOCAL_TASKS:
        assert settings(task) == settings(task.replace("-local", "-v2"))
    medium, replay = (resolve("rebrac", "d4rl", f"hopper-{kind}-v2", ()).config for kind in ("medium", "medium-replay"))
    assert (medium.alpha_actor, medium.alpha_critic, medium.learning_rate) == (0.01, 0.01, 0.001)
    assert (replay.alpha_actor, replay.alpha_critic, replay.batch_size) == (0.05, 0.5, 1024)
    assert medium.order == "sequential"  # its own code's; FQL's suite has the other on OGBench
    assert resolve("rebrac", "ogbench", "cube-single-play-singletask-v0", ()).config.order == "simultaneous"
    assert resolve("ivr", "d4rl", "antmaze-umaze-v2", ()).config.value_dropout == 0.0  # inert in its code
    vgf = resolve("vgf", "d4rl", "antmaze-medium-diverse-v2", ())
    assert (vgf.config.train_flow_steps, vgf.config.step_size, vgf.config.q_aggregation) == (5, 0.1, "min")
    assert vgf.origins["step_size"] == "VGF paper, Table 5"
