"""Fingerprints: equal work is one node, and whatever changes a result changes them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import methods
from harness.config import Override, RunSettings, parse_set
from harness.plan import RunNode, describe, plan_all, plan_run
from methods.core import BadInput, TaskSpec
from tasks.core import choose
from tasks.ogbench import suite as ogbench
from tasks.toy.suite import ToyTask
from tests.harness.command import ROOT

SETTINGS = RunSettings(seeds=(0, 1), episodes=5, evaluate_every=20, log_every=10)


def plan(method: str, *sets: str, task: Any = None, data: str = "digest", settings: RunSettings = SETTINGS) -> RunNode:
    sets = ("steps=50", "behavior=pretrained", "vgf.train_flow_steps=1", *sets)
    return plan_run(task or ToyTask(), data, method, parse_set(sets), settings)


def stages(run: RunNode) -> dict[str, str]:
    return {node.stage.name: node.fingerprint for node in run.nodes}


def test_methods_share_a_pretrained_behaviour() -> None:
    runs = [plan_run(ToyTask(), "digest", name, (), SETTINGS) for name in ("vgf", "best_of_n", "bc")]
    first = {run.nodes[0].fingerprint for run in runs}
    assert len(first) == 1 and {run.nodes[0].stage.name for run in runs} == {"behavior"}
    assert len({run.fingerprint for run in runs}) == 3


def test_without_a_flow_vgf_and_best_of_n_share_their_critic() -> None:
    same = ("train_flow_steps=0", "n_particles=4")
    vgf, best_of_n = plan("vgf", *same, "step_size=0.7"), plan("best_of_n", *same)
    assert stages(vgf) == stages(best_of_n) and vgf.fingerprint != best_of_n.fingerprint
    for other in (plan("vgf", *same, "train_flow_steps=1"), plan("best_of_n", *same, "n_particles=5")):
        assert stages(other)["critic"] != stages(best_of_n)["critic"]


def test_iql_s_critic_is_one_stage_for_all_who_use_it() -> None:
    users = {"iql": (), "ifql": (), "idql": (), "qgf": (), "best_of_n": ("critic=iql",), "vgf": ("critic=iql",)}

    def critics(*sets: str) -> set[str]:
        return {stages(plan(name, *own, *sets))["critic"] for name, own in users.items()}

    (critic,), (other,) = critics(), critics("expectile=0.7")
    assert critic not in {other, stages(plan("vgf"))["critic"], stages(plan("ivr"))["critic"]}
    actor, again = (stages(plan("iql", *sets))["actor"] for sets in ((), ("expectile=0.7",)))
    assert actor != again  # it reads the critic
    assert stages(plan("iql", "alpha=3"))["critic"] == critic  # which knows nothing of it


def test_what_a_method_does_not_read_is_no_part_of_its_stages() -> None:
    """An IQL critic's fingerprint has no setting of the behaviour, of proposals or of a flow."""
    base = plan("vgf", "critic=iql")
    for setting in ("behavior_steps=7", "n_particles=9", "step_size=0.7", "bank=5"):
        assert stages(plan("vgf", "critic=iql", setting))["critic"] == stages(base)["critic"]


@pytest.mark.parametrize(
    "name, setting",
    [("vgf", "test_flow_steps=0,7"), ("vgf", "particle_select=uniform"), ("vgf", "temperature=3"),
     ("best_of_n", "test_n=2,3"), ("qgf", "test_weights=0,7"), ("idql", "test_n=3"), ("sfbc", "picks=4"),
     ("sfbc", "weight=7"), ("diffusion_ql", "particle_select=argmax"), ("diffusion_ql", "backup_n=3"),
     ("qgf", "gradient=noisy"), ("ivr", "eql_alpha=7")],
)  # fmt: skip
def test_test_time_settings_change_the_run_but_not_its_stages(name: str, setting: str) -> None:
    base, other = plan(name), plan(name, setting)
    assert stages(base) == stages(other) and base.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("name", "setting"),
    [("avgf", "flow_q_aggregation=min"), ("vgf_qgf", "gradient=noisy"), ("vgf_qgf", "guidance_aggregation=mean"),
     ("sfbc", "plan_weight=7"), ("sfbc", "solver_steps=7"), ("ivr", "sql_alpha=7"), ("qgf", "iql_norm=before")],
)  # fmt: skip
def test_settings_that_training_sees_change_its_stage(name: str, setting: str) -> None:
    """Also where TD targets see no flow (the toy's L_train = 0): AVGF regresses its gradient all the same."""
    base, other = plan(name, "train_flow_steps=0"), plan(name, "train_flow_steps=0", setting)
    assert base.nodes[-1].fingerprint != other.nodes[-1].fingerprint


def test_joint_stages_with_different_samplers_are_different_work() -> None:
    """QGF's flow embeds its time and has LayerNorm, best-of-N's has not."""
    joint = ("behavior=joint", "bank=0", "critic=td", "sampler_activation=gelu")
    qgf, best = plan("qgf", *joint).nodes[-1], plan("best_of_n", *joint).nodes[-1]
    assert qgf.stage.trains == best.stage.trains == {"behavior", "critic"} and qgf.fingerprint != best.fingerprint
    assert qgf.identity["config"].keys() >= {"behavior.time_embedding", "behavior.norm"}


@pytest.mark.parametrize(
    "setting", ["step_size=0.7", "discount=0.5", "q_aggregation=min", "tau=0.1", "n_particles=6", "train_flow_steps=3",
                "activation=gelu", "steps=51"],
)  # fmt: skip
def test_settings_of_the_critic_change_it_alone(setting: str) -> None:
    base, other = plan("vgf"), plan("vgf", setting)
    assert stages(base)["behavior"] == stages(other)["behavior"]
    assert stages(base)["critic"] != stages(other)["critic"] and base.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    "setting", ["behavior_steps=7", "sampler=gaussian", "sampler_activation=gelu", "hidden_dims=9", "batch_size=9",
                "learning_rate=0.02"],
)  # fmt: skip
def test_settings_of_the_behaviour_change_all_that_follows(setting: str) -> None:
    base, other = plan("vgf"), plan("vgf", setting)
    assert all(stages(base)[name] != stages(other)[name] for name in ("behavior", "critic"))
    assert base.fingerprint != other.fingerprint


def test_another_rule_is_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    base = plan("vgf")
    monkeypatch.setattr(methods.get("vgf"), "rule", "TD on something else")
    other = plan("vgf")
    assert stages(base)["behavior"] == stages(other)["behavior"] and stages(base)["critic"] != stages(other)["critic"]


@dataclass(frozen=True)
class OtherTask(ToyTask):
    """The toy under another name or of another shape."""

    name: str = "toy"  # type: ignore[misc]
    spec: TaskSpec = ToyTask.spec  # type: ignore[misc]


@pytest.mark.parametrize(
    "change", [{"data": "other"}, {"task": OtherTask(name="toy2")}, {"task": OtherTask(spec=TaskSpec(1, 2, horizon=2))}]
)
def test_data_and_task_change_everything(change: dict[str, Any]) -> None:
    base, other = plan("vgf"), plan("vgf", **change)
    assert not set(stages(base).values()) & set(stages(other).values()) and base.fingerprint != other.fingerprint
    assert stages(base) == stages(plan("vgf", task=OtherTask()))


def test_a_seed_changes_its_lanes_alone() -> None:
    """A run is the same whatever seeds are asked for, as is a lane whatever others train beside it."""
    base, other = plan("vgf"), plan("vgf", settings=replace(SETTINGS, seeds=(1, 7)))
    assert base.fingerprint == other.fingerprint and stages(base) == stages(other)
    lanes = {seed: tuple(lane.fingerprint for lane in base.lanes(seed)) for seed in (0, 1, 7)}
    assert len({one for chain in lanes.values() for one in chain} | set(stages(base).values())) == 3 * 2 + 2
    assert lanes[1] == tuple(lane.fingerprint for lane in other.lanes(1))
    behavior, critic = base.lanes(7)
    assert critic.reads == {"behavior": behavior} and critic.identity["reads"] == {"behavior": behavior.fingerprint}
    assert (behavior.depth, critic.depth, critic.seed) == (0, 1, 7)


def test_lanes_of_one_structure_differ_in_seeds_and_float_settings_alone() -> None:
    def structure(*sets: str, name: str = "vgf", seed: int = 0, **more: Any) -> Any:
        return plan(name, *sets, **more).lanes(seed)[-1].structure

    base = structure()
    for same in (structure(seed=3), structure("step_size=0.7"), structure("vgf.alpha=3", "learning_rate=0.02")):
        assert same == base
    for other in (structure("train_flow_steps=3"), structure("batch_size=9"), structure("steps=51"),
                  structure("hidden_dims=9"), structure(name="best_of_n"), structure(task=OtherTask(name="toy2")),
                  structure("rewards=raw")):  # fmt: skip
        assert other != base
    assert len({lane.structure for lane in plan("vgf").lanes(0)}) == 2


def test_going_on_online_is_a_run_of_its_own_behind_the_offline_one() -> None:
    settings = replace(SETTINGS, online_steps=30, online_warmup=10, online_evaluate_every=15)
    offline, online = plan_all(ToyTask(), "digest", ("iql",), (), settings)
    assert online.continues is offline and online.fingerprint != offline.fingerprint == plan_run(
        ToyTask(), "digest", "iql", (), SETTINGS).fingerprint  # fmt: skip
    *before, last = online.lanes(1)
    assert [lane.fingerprint for lane in before] == [lane.fingerprint for lane in offline.lanes(1)]
    assert set(last.reads.values()) <= set(before) and {one.fingerprint for one in last.reads.values()} == {
        lane.fingerprint for lane in before if lane.node.stage.trains}  # fmt: skip
    end = offline.evaluation_steps()[-1]
    assert online.evaluation_steps() == (end + 15, end + 30) and online.nodes[-1].updates == 20
    assert [trial.before for trial in online.trials()] == list(offline.trials())
    assert describe(online.trials()[0])["online"] == {
        "continues": offline.fingerprint, "from_step": end, "steps": 30, "warmup": 10, "updates": 1,
        "capacity": 0}  # fmt: skip
    assert "online" not in describe(offline.trials()[0])
    with pytest.raises(BadInput, match="bc has no rule for an online phase"):
        plan_all(ToyTask(), "digest", ("bc",), (), settings)
    assert len(plan_all(ToyTask(), "digest", ("iql", "bc"), (), settings, named=False)) == 3
    with pytest.raises(BadInput, match="nothing is learned in them, as --online-warmup is 30"):
        plan_all(ToyTask(), "digest", ("iql",), (), replace(settings, online_warmup=30))


def test_settings_of_a_sweep_are_runs_and_equal_ones_are_one() -> None:
    def swept(*values: str) -> list[RunNode]:
        setting = [(Override("fql", "alpha", value, "--sweep"),) for value in values]
        return plan_all(ToyTask(), "digest", ("bc", "fql"), (), SETTINGS, {"fql": setting})

    assert [run.label for run in swept("3", "10")] == ["bc on toy", "fql on toy (alpha=3)", "fql on toy (alpha=10)"]
    assert [run.label for run in swept("3", "3.0")][1:] == ["fql on toy (alpha=3)"]


def test_sizes_of_the_record_change_the_run_alone() -> None:
    base = plan("vgf")
    for change in ({"episodes": 6}, {"evaluate_every": 25}):
        other = plan("vgf", settings=replace(SETTINGS, **change))
        assert stages(base) == stages(other) and base.fingerprint != other.fingerprint
    # what is only reported, or only a matter of where a program is cut, is not part of a result's name
    assert plan("vgf", settings=replace(SETTINGS, log_every=5)).fingerprint == base.fingerprint


def test_what_is_chosen_of_a_task_changes_the_run_alone() -> None:
    """A success that is judged otherwise is another record of the same training."""
    cube = ogbench.get("cube-single-play-singletask-v0")
    post, pre = plan("vgf", task=cube), plan("vgf", task=choose(cube, {"success_timing": "pre"}))
    assert stages(post) == stages(pre) and post.fingerprint != pre.fingerprint
    assert describe(pre.trials()[0])["task_options"] == {"success_timing": "pre"}
    assert describe(plan("vgf").trials()[0])["task_options"] == {}


def test_joint_and_pretrained_are_different_work() -> None:
    joint = plan("vgf", "behavior=joint", "bank=0")
    assert list(stages(joint)) == ["joint"] and not set(stages(joint).values()) & set(stages(plan("vgf")).values())


def test_evaluation_steps() -> None:
    def steps(total: int, every: int) -> tuple[int, ...]:
        settings = replace(SETTINGS, evaluate_every=every)
        return plan("vgf", f"steps={total}", settings=settings).evaluation_steps()

    assert steps(60, 20) == (20, 40, 60) and steps(50, 20) == (20, 40, 50) and steps(5, 20) == (5,)


def test_describe_names_every_setting_with_its_origin() -> None:
    run = plan("vgf", "test_flow_steps=0,3")
    content = describe(run.trials()[1])
    assert content["config"]["test_flow_steps"] == {"value": [0, 3], "origin": "--set"}
    assert content["config"]["steps"] == {"value": 50, "origin": "--set"}
    assert content["knobs"] == ["L_test"] and content["seed"] == 1 and content["fingerprint"] == run.fingerprint
    assert [one["setting"] for one in content["inference"]["costs"]] == [{"L_test": 0}, {"L_test": 3}]
    assert content["unit"] == "true reward [100 = better mode]"
    assert content["inference"]["knobs"][0]["name"] == "L_test"
    assert run.trials()[1].folder(Path("r")) == Path("r/runs/toy/toy/vgf") / run.fingerprint / "seed-1"


def test_fingerprints_do_not_depend_on_the_process() -> None:
    code = ("from tests.harness.test_plan import plan, stages; run = plan('vgf', 'bank=2');"
            "print(run.fingerprint, *[lane.fingerprint for lane in run.lanes(1)])")  # fmt: skip
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    run = plan("vgf", "bank=2")
    assert found.stdout.split() == [run.fingerprint, *(lane.fingerprint for lane in run.lanes(1))], found.stderr
