"""Protocols: which layer wins, what each of OGBench's says, whose identity they are part of, and the command line."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import methods
import tasks
from harness.config import RunSettings, layered, parse_set, protocol, resolve
from harness.plan import RunNode, describe, plan_run
from harness.request import Request, load
from methods.core import BadInput
from tests.harness.command import invoke, refused
from tests.methods.common import LATER

DOUBLE, SCENE = "cube-double-play-singletask-v0", "scene-play-singletask-task3-v0"
GIANT, LARGE = "antmaze-giant-navigate-singletask-v0", "humanoidmaze-large-navigate-singletask-v0"
P44 = "puzzle-4x4-play-singletask-task1-v0"


def settings(method: str, task: str, name: str, *keys: str, preset: str | None = None) -> list[Any]:
    """A method's settings on an OGBench task under a protocol and maybe a preset."""
    found = resolve(method, "ogbench", task, layered("ogbench", preset, name)[1], protocol=name).config
    return [getattr(found, key) for key in keys]


def planned(**words: Any) -> list[RunNode]:
    plan = Request(suite="ogbench", **words).plan()
    return [run for task in plan.tasks for run in plan.runs(task)]


# ---- layers ----


def test_a_protocol_stands_between_the_default_preset_and_one_that_is_named() -> None:
    usual, _ = layered("ogbench", None, "")
    assert usual == {"seeds": 5, "episodes": 50, "evaluate_every": 100_000, "log_every": 5000, "data_episodes": 1000}
    assert layered("ogbench", None, "fql") == layered("ogbench", None, "")
    qam, _ = layered("ogbench", None, "qam")
    assert qam == usual | {"seeds": 12, "evaluate_every": 50_000, "online_warmup": 5000, "updates_per_step": 1}
    smoke, _ = layered("ogbench", "smoke", "qam")
    assert smoke == layered("ogbench", "smoke", "")[0] | {"updates_per_step": 1} and smoke["seeds"] == 2
    asked = Request(suite="ogbench", tasks=(DOUBLE,), methods=("bc",), protocol="qam", sizes={"episodes": 7}).plan()
    assert (len(asked.settings.seeds), asked.settings.episodes, asked.settings.evaluate_every) == (12, 7, 50_000)


def test_departures_from_a_protocol_are_told(tmp_path: Path) -> None:
    """Of its own settings; what its tables say of a task is no departure, nor is a value that is the same."""

    def told(**words: Any) -> list[str]:
        plan = Request(suite="ogbench", tasks=(DOUBLE,), methods=("fql", "bc"), protocol="qam", **words).plan()
        return plan.departures(run for task in plan.tasks for run in plan.runs(task))

    assert told(set=("critics=2", "fql.alpha=3", "batch_size=256")) == [
        "not protocol qam as it is published: critics=2 (--set)"
    ]
    (small,) = told(preset="smoke")
    assert "steps=40 (preset smoke)" in small and "hidden_dims=32,32 (preset smoke)" in small and told() == []
    words = ("--suite", "toy", "--methods", "bc", "--dry-run", "--set", "batch_size=3", "--results", str(tmp_path))
    assert "not protocol" not in invoke(*words).stderr


@pytest.mark.parametrize("name", ["fql", "qam"])
def test_qc_and_best_of_n_are_other_lanes_however_alike_they_are_set(name: str) -> None:
    """Their critics have another layout and another loss."""
    alike = ("sampler_activation=gelu", "activation=gelu", "chunk=5", "chunk_mask=step", "n_particles=32",
             "target_select=online")  # fmt: skip
    runs = planned(tasks=(DOUBLE,), methods=("qc", "best_of_n"), protocol=name, set=alike)
    assert len({run.trials()[0].lanes()[-1].fingerprint for run in runs}) == 2


@pytest.mark.parametrize("name", ["qam", "qgf", "laptop"])
def test_no_row_of_a_protocol_s_table_is_overruled_by_what_it_sets_for_all(name: str) -> None:
    """A row that is would be dead, and the value in it believed."""
    bundle = protocol("ogbench", name)
    for row in tasks.about("ogbench").settings(bundle, online=False):
        if bundle.tables != ("settings.csv",):  # laptop's own is the table of another protocol
            named = f"{row['method']}.{row['key']}"
            assert row["key"] not in bundle.set or named in bundle.set, row


def test_later_layers_win_and_are_named() -> None:
    """Method < table < protocol < preset < --set."""
    overrides = (*layered("ogbench", "smoke", "qam")[1], *parse_set(["fql.tau=0.5"]))
    found = resolve("fql", "ogbench", DOUBLE, overrides, protocol="qam")
    code = "QAM code, experiments/reproduce.py"
    expected = {"flow_steps": (10, "default"), "chunk": (5, code), "alpha": (300.0, code),
                "critics": (10, "protocol qam"), "q_aggregation": ("mean_minus_std", "protocol qam"),
                "hidden_dims": ((32, 32), "preset smoke"), "steps": (40, "preset smoke"),
                "tau": (0.5, "--set")}  # fmt: skip
    assert {key: (getattr(found.config, key), found.origins[key]) for key in expected} == expected
    given = resolve("fql", "ogbench", DOUBLE, (*overrides, *parse_set(["critics=3"])), protocol="qam")
    assert given.config.critics == 3 and given.origins["critics"] == "--set"  # type: ignore[attr-defined]


def test_a_suite_without_the_file_has_one_that_has_no_name() -> None:
    assert list(tasks.about("ogbench").protocols) == ["fql", "qam", "qgf", "laptop"]
    assert list(tasks.about("toy").protocols) == [""] and protocol("toy").tables == ("settings.csv",)
    assert protocol("none").name == ""  # of a task that is of no suite
    with pytest.raises(BadInput, match=r"^unknown protocol 'qm' for suite ogbench; did you mean 'qam'\?$"):
        protocol("ogbench", "qm")
    with pytest.raises(BadInput, match=r"^unknown protocol 'qam' for suite toy; it has one alone, which has no name$"):
        protocol("toy", "qam")


# ---- what they say ----


@pytest.mark.parametrize("name", tasks.about("ogbench").protocols)
def test_every_method_can_be_planned_under_every_protocol(name: str) -> None:
    """And its settings reach something."""
    for run in planned(tasks=(SCENE, GIANT), protocol=name):
        assert run.protocol == name and run.evaluation_steps()[-1] == run.nodes[-1].stage.steps
    for key in protocol("ogbench", name).set:
        method, _, setting = key.rpartition(".")
        reached = [method] if method else list(methods.REGISTRY)
        assert any(hasattr(methods.get(one).Config, setting) for one in reached), key
    assert len(protocol("ogbench", name).about) < 120


def test_qam() -> None:
    keys = ("chunk", "rewards", "discount", "rho", "critics", "q_aggregation", "batch_size")
    shared = [10, "mean_minus_std", 256]
    assert settings("fql", DOUBLE, "qam", *keys) == [5, "task", 0.99, 0.5, *shared]
    assert settings("fql", SCENE, "qam", *keys) == [5, "sparse", 0.99, 0.5, *shared]
    assert settings("rebrac", P44, "qam", *keys) == [5, "sparse", 0.99, 0.5, *shared]
    assert settings("vgf", GIANT, "qam", *keys) == [1, "task", 0.995, 0.5, *shared]
    assert settings("fbrac", LARGE, "qam", *keys) == [1, "task", 0.995, 0.0, *shared]
    assert settings("ifql", LARGE, "qam", "expectile", "test_n", "value_aggregation") == [0.8, (32,), "mean_minus_std"]
    assert settings("rebrac", P44, "qam", "alpha_actor", "alpha_critic", "actor_noise") == [0.01, 0.0, 0.2]
    assert settings("best_of_n", DOUBLE, "qam", "n_particles", "target_select", "test_n") == [32, "online", (32,)]
    assert settings("sfbc", DOUBLE, "qam", "chunk") == [1]
    for method in methods.REGISTRY:  # also those whose own default is a chunk of 5
        assert settings(method, GIANT, "qam", "chunk") == settings(method, LARGE, "qam", "chunk") == [1], method


def test_qgf() -> None:
    keys = ("chunk", "discount", "hidden_dims", "batch_size", "critic", "expectile", "iql_norm", "chunk_mask", "masks")
    expected = [5, 0.999, (1024,) * 4, 1024, "iql", 0.9, "before", "none", "task"]
    for method in ("qgf", "best_of_n", "vgf", "ifql"):
        assert settings(method, P44, "qgf", *keys) == expected
    assert settings("fql", SCENE, "qgf", "alpha", "steps", "critics", "q_aggregation") == [300.0, 500_000, 2, "min"]
    sizes, _ = layered("ogbench", None, "qgf")
    assert (sizes["seeds"], sizes["episodes"], sizes["evaluate_every"]) == (10, 30, 100_000)
    (run,) = planned(tasks=(P44,), methods=("qgf",), protocol="qgf", set=("masks=trajectory",))
    assert run.method.rewards.masks == "trajectory"


def test_laptop_shares_one_flow_and_lasts_as_long_as_it_trains() -> None:
    runs = planned(tasks=(DOUBLE,), protocol="laptop")
    ends = {run.method.name: run.evaluation_steps() for run in runs}
    assert ends.pop("sfbc") == (25_000,)  # of its second round
    assert set(ends.values()) == {(25_000, 50_000)} and len(runs[0].settings.seeds) == 3
    flows = {run.method.name: run.nodes[0].fingerprint for run in runs if run.nodes[0].stage.name == "behavior"}
    assert len({flows[name] for name in ("vgf", "best_of_n", "fql", "ifql", "bc")}) == 1
    assert settings("vgf", DOUBLE, "laptop", "hidden_dims", "bank", "behavior") == [(256, 256), 16, "pretrained"]
    assert settings("idql", DOUBLE, "laptop", "decay_steps", "steps") == [50_000, 50_000]
    assert settings("fql", DOUBLE, "laptop", "alpha") == settings("fql", DOUBLE, "fql", "alpha") == [300.0]


def test_no_value_is_carried_from_one_protocol_to_another() -> None:
    assert [settings("fql", P44, name, "alpha")[0] for name in ("fql", "qam", "qgf")] == [1000.0, 1.0, 1000.0]
    assert [settings("fql", GIANT, name, "alpha")[0] for name in ("fql", "qam", "qgf")] == [10.0, 3.0, 10.0]
    assert [settings("fbrac", P44, name, "alpha")[0] for name in ("fql", "qam")] == [10.0, 0.3]
    assert [settings("vgf", DOUBLE, name, "step_size")[0] for name in ("fql", "qam", "qgf")] == [0.05, 0.1, 0.1]
    soccer = "antsoccer-arena-navigate-singletask-v0"
    online = [resolve("fql", "ogbench", soccer, (), online=True, protocol=name).config for name in ("fql", "qam")]
    assert [config.alpha for config in online] == [30.0, 10.0]  # type: ignore[attr-defined]


# ---- identity ----


def test_runs_know_their_protocol_and_lanes_do_not() -> None:
    _, overrides = layered("ogbench", None, "laptop")
    sizes = RunSettings(seeds=(0,), episodes=5, evaluate_every=20, log_every=10)
    task = tasks.suite("ogbench").get(DOUBLE)
    usual, named, laptop = (plan_run(task, "data", "fql", overrides, sizes, bundle=bundle)
                            for bundle in ("", "fql", "laptop"))  # fmt: skip
    assert asdict(usual.resolved.config) == asdict(laptop.resolved.config)
    assert usual.fingerprint == named.fingerprint != laptop.fingerprint
    assert [lane.fingerprint for lane in usual.lanes(0)] == [lane.fingerprint for lane in laptop.lanes(0)]
    assert [describe(run.trials()[0])["protocol"] for run in (usual, named, laptop)] == ["fql", "fql", "laptop"]
    toy = plan_run(tasks.suite("toy").get("toy"), "data", "bc", (), sizes)
    assert describe(toy.trials()[0])["protocol"] == ""


def test_what_was_planned_before_there_were_protocols_is_the_same_today() -> None:
    """Fingerprints of the commit before them, with data unknown."""
    runs = planned(tasks=(DOUBLE,), methods=("fql", "vgf"), sizes={"online_steps": 20_000})
    assert [run.fingerprint for run in runs] == ["ffd70b3ff57b", "8c2f5ac5f273", "1f5cae5c6af4", "7df87c716cf7"]
    everything = planned(tasks=(DOUBLE,), methods=tuple(name for name in methods.REGISTRY if name not in LATER))
    digest = hashlib.sha256(" ".join(run.fingerprint for run in everything).encode()).hexdigest()
    assert digest.startswith("2e6a3dbc87f7"), [(run.method.name, run.fingerprint) for run in everything]


# ---- the command line ----


def test_a_plan_carries_its_protocol(tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    words = ("--suite", "ogbench", "--tasks", DOUBLE, "--methods", "fql")
    assert invoke(*words, "--protocol", "qam", "--save-plan", str(file)).exit_code == 0
    saved = load(file)
    assert saved.protocol == saved.plan().protocol == "qam" and saved.plan().fingerprint() == saved.fingerprint
    assert saved.with_words(protocol="laptop").plan().protocol == "laptop"
    shown = invoke("--plan", str(file), "--show-config").stdout
    assert "protocol qam" in shown and "QAM code" in shown
    assert refused("--plan", str(file), "--protocol", "qa") == (
        "unknown protocol 'qa' for suite ogbench; did you mean 'qam'?")  # fmt: skip


@pytest.mark.parametrize("name, method, text", [("laptop", "fql", "50000 steps, 3 lanes"),
                                                ("qgf", "qgf", "500000 steps, 10 lanes")])  # fmt: skip
def test_what_is_to_do(name: str, method: str, text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = invoke("--suite", "ogbench", "--tasks", P44, "--methods", method, "--protocol", name, "--dry-run",
                  "--results", str(tmp_path))  # fmt: skip
    assert done.exit_code == 0 and text in done.stdout and f"protocol: {name}" in done.stdout


def test_what_there_is() -> None:
    lines = [line.split() for line in invoke("--list").stdout.splitlines()]
    assert [words[1] for words in lines if words[:1] == ["--protocol"]] == ["fql", "qam", "qgf", "laptop"]
    assert refused("--list", "--protocol", "qam") == "--protocol has no meaning with --list"


@pytest.mark.slow
def test_qam_runs_end_to_end_on_generated_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real simulators: three methods, two seeds, chunks of five executed open loop."""
    monkeypatch.setenv("OGBENCH_DATA_DIR", str(tmp_path / "data"))
    done = invoke("--suite", "ogbench", "--tasks", DOUBLE, "--protocol", "qam", "--methods", "fql,best_of_n,ifql",
                  "--preset", "smoke", "--data", "generate", "--results", str(tmp_path))  # fmt: skip
    assert done.exit_code == 0 and "3 of 3 runs finished" in done.stderr, done.stderr
    found = sorted(tmp_path.glob("runs/ogbench/*/*/*/seed-*/run.json"))
    assert len(found) == 6
    for path in found:
        record = json.loads(path.read_text())
        config = record["config"]
        assert record["protocol"] == "qam" and record["status"] == "finished"
        assert config["chunk"] == {"value": 5, "origin": "QAM code, experiments/reproduce.py"}
        assert config["critics"] == {"value": 10, "origin": "protocol qam"}
        assert config["hidden_dims"]["value"] == [32, 32] and config["steps"]["value"] == 40
