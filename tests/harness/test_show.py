"""What is printed instead of run: `--list`, `--show-config` and the graph of `--dry-run`; nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

import methods
from harness import estimate
from tasks.d4rl import suite as d4rl
from tasks.minari import data as minari_data
from tasks.minari.data import Episode
from tasks.ogbench import suite as ogbench
from tests.harness.command import TINY, invoke, refused

CUBE = "cube-single-play-singletask-v0"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own, which stays empty; room for long lines; 2 s an update and seed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(estimate, "measure", lambda *_, **__: SimpleNamespace(ms_scan=2000.0))
    yield
    assert not list(tmp_path.iterdir())


def shown(*arguments: str) -> list[str]:
    """Lines on stdout of a command that only looks."""
    done = invoke(*arguments)
    assert done.exit_code == 0 and done.stderr == "", done.stderr
    return done.stdout.splitlines()


# ---- --list ----


def test_listing() -> None:
    lines = [line.strip() for line in shown("--list")]
    assert {"suite toy", "suite ogbench", "suite d4rl", "toy"} < set(lines)
    for suite, tasks in (("ogbench", (*ogbench.LARGE_MAZE_TASKS, *ogbench.PAPER_TASKS)), ("d4rl", d4rl.PAPER_TASKS)):
        first = lines.index(f"suite {suite}") + 1
        assert tuple(lines[first : first + len(tasks)]) == tasks
        assert lines[first + len(tasks)].startswith(("and ", "more: "))
    about = dict(line.split(maxsplit=1) for line in lines[1 : 1 + len(methods.REGISTRY)])
    assert list(about) == list(methods.REGISTRY) and all(len(line) > 20 for line in about.values())
    alone = shown("--list", "--suite", "toy")
    assert "suite toy" in alone and "suite ogbench" not in alone


def test_sets_made_here_are_listed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("minari")))
    assert "hopper-medium-local" not in (line.strip() for line in shown("--list", "--suite", "d4rl"))
    states = np.arange(33.0).reshape(3, 11)
    episode = Episode(states, np.zeros((2, 3)), np.ones(2), np.zeros(2, bool), truncated=True)
    minari_data.write("local/hopper-medium-local-v0", [episode], "Hopper-v4", {})
    assert "hopper-medium-local" in (line.strip() for line in shown("--list", "--suite", "d4rl"))


# ---- --show-config ----


def table(*arguments: str) -> list[list[str]]:
    """Cells of what `--show-config` prints, row by row."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in shown("--show-config", *arguments)]


def test_settings_of_several_runs() -> None:
    cells = table(*TINY, "--methods", "vgf,bc", "--set", "vgf.alpha=0.7")
    assert ["alpha", "0.7", "--set"] in cells and ["steps", "40", "--steps"] in cells
    assert ["batch_size", "256", "default"] in cells and ["vgf on toy"] in cells and ["bc on toy"] in cells


def test_settings_of_a_method_on_a_task_of_any_suite() -> None:
    cells = table("vgf", CUBE)
    assert [f"vgf on {CUBE}"] in cells and sum(" on " in cell for row in cells for cell in row) == 1
    for row in (["train_flow_steps", "1", "VGF paper, Table 6; a_vgf script"],
                ["discount", "0.99", "VGF paper, Table 4; a_vgf script"],
                ["q_aggregation", "mean", "VGF paper, Table 4; a_vgf script"],
                ["batch_size", "256", "default"]):  # fmt: skip
        assert row in cells
    large = table("iql", "humanoidmaze-large-navigate-singletask-v0")
    assert ["alpha", "10.0", "FQL paper, appendix (unverified: recalled)"] in large
    assert ["step_size", "0.7", "--set"] in table("vgf", CUBE, "--set", "step_size=0.7")
    assert ["alpha", "0.1", "paper, Figure 2"] in table("vgf", "toy") and ["vgf on toy"] in table("vgf")
    assert ["fql on cube-double-play-singletask-v0"] in table("fql", "cube-double-play-singletask-v?")
    assert [f"bc on {CUBE}"] in table("--methods", "bc", "--tasks", CUBE)


@pytest.mark.parametrize(
    "arguments, line",
    [
        ("vgf", "unexpected argument 'vgf'; methods are named by --methods, tasks by --tasks"),
        ("--list vgf", "unexpected argument 'vgf'; methods are named by --methods, tasks by --tasks"),
        ("--show-config vgf --methods bc", "unexpected argument 'vgf'; methods are named by --methods"),
        ("--show-config vgf toy --tasks toy", "unexpected argument 'vgf'; methods are named by --methods"),
        ("--show-config vgf toy bc", "unexpected argument 'bc'; expected --show-config METHOD TASK"),
        ("--show-config vgff", "unknown method 'vgff'; did you mean 'vgf'?"),
        (f"--show-config vgff {CUBE}", "unknown method 'vgff'; did you mean 'vgf'?"),
        ("--show-config vgf cube-sngle-play-singletask-v0", "no suite has a task that matches "
         f"'cube-sngle-play-singletask-v0'; did you mean '{CUBE}'?"),
        ("--show-config vgf q", "no suite has a task that matches 'q'; python -m harness.run --list prints all tasks"),
        (f"--show-config vgf {CUBE} --suite toy", f"no toy task matches '{CUBE}'; valid: toy"),
        (f"--show-config bc {CUBE} --set step_size=1", "--set step_size: no such setting in any of bc"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown(arguments: str, line: str) -> None:
    assert refused(*arguments.split()).startswith(line)


# ---- --dry-run ----


class Node(NamedTuple):
    """A line of the graph, and those it hangs from."""

    text: str
    above: tuple[str, ...]


def graph(*arguments: str) -> list[Node]:
    """The graph of a dry run of one task, line by line, without the sums below it."""
    nodes: list[Node] = []
    for line in shown("--dry-run", *arguments)[:-2]:
        depth = (len(line) - len(line.lstrip("│├└─ "))) // 4
        above = (*nodes[-1].above, nodes[-1].text)[:depth] if nodes else ()
        nodes.append(Node(line.lstrip("│├└─ "), above))
    return nodes


def starting(nodes: list[Node], start: str) -> list[Node]:
    return [node for node in nodes if node.text.startswith(start)]


def test_each_stage_stands_once_with_who_uses_it() -> None:
    nodes = graph(*TINY, "--methods", "best_of_n,bc")
    (data, behavior, bc, critic, best_of_n) = nodes
    assert data.text == "toy  data: built-in, 2000 transitions"
    assert behavior.text == ("behavior: FlowSampler imitation, gradient clip None; 20 steps, 1 min, "
                             "shared by 2: bc, best_of_n")  # fmt: skip
    assert critic.text == "critic: TD on behaviour proposals; 40 steps, 3 min, for best_of_n"
    # 2 seeds x 4 values of N x 3 episodes, at steps 10, 20, 30 and 40; BC's only stage, of 20, is on its way
    assert best_of_n.text == "best_of_n evaluated 4 times, 24 episodes each"
    assert bc.text == "bc evaluated 2 times, 6 episodes each"
    assert critic.above == bc.above == (data.text, behavior.text) and best_of_n.above == (*critic.above, critic.text)
    runs, training = shown(*TINY, "--methods", "best_of_n,bc", "--dry-run")[-2:]
    assert runs == "2 runs x 2 seeds; results: results/"
    assert training.startswith("training about 4 min on this device (1 min saved by sharing); ")


def test_an_online_phase_hangs_from_the_offline_end() -> None:
    nodes = graph(*TINY, "--methods", "vgf,rebrac", "--online-steps", "50", "--online-evaluate-every", "20")
    vgf, rebrac = starting(nodes, "online: ")
    assert vgf.above[-1].startswith("critic: ") and rebrac.above[-1].startswith("joint: ")
    # 10 of the 50 steps warm up; 40 updates of 2 s for each of 2 seeds
    assert rebrac.text.endswith("; 50 environment steps, 40 updates, 3 min, for rebrac online")
    (evaluation,) = starting(nodes, "rebrac online evaluated ")
    assert evaluation.text.split()[3] == "3" and evaluation.above[-1] == rebrac.text  # after 20, 40 and 50
    runs, training = shown(*TINY, "--methods", "vgf", "--online-steps", "50", "--dry-run")[-2:]
    assert runs == "2 runs x 2 seeds; results: results/"
    # 20 steps of the behaviour, 40 of the critic, 40 online; the two runs share what is offline, as they are one
    assert (
        training.startswith("training about 7 min on this device (0 s saved by sharing); ") and "exploring" in training
    )


def test_iql_s_critic_is_trained_once_for_all_who_use_it() -> None:
    users = ("iql", "ifql", "idql", "qgf", "best_of_n", "vgf")
    nodes = graph(*TINY, "--methods", ",".join(users), "--set", "best_of_n.critic=iql", "--set", "vgf.critic=iql")
    (critic,) = starting(nodes, "critic: ")
    assert critic.text.startswith("critic: in-sample TD, expectile value; 40 steps, ")
    assert critic.text.endswith(", shared by 6: ifql, idql, qgf, best_of_n, vgf, iql") and len(critic.above) == 1
    (actor,) = starting(nodes, "actor: ")
    assert actor.text.endswith(", for iql") and actor.above[-1] == critic.text
    for name in users:
        (evaluation,) = starting(nodes, f"{name} evaluated ")
        assert evaluation.above[-1] == (actor if name == "iql" else critic).text
    whom = [node.text.rpartition(" s, ")[2].rpartition(" min, ")[2] for node in starting(nodes, "behavior: ")]
    assert sorted(whom) == ["for idql", "for qgf", "shared by 3: ifql, best_of_n, vgf"]


def test_how_often_each_is_evaluated() -> None:
    """A last stage is watched by all runs that share it, also where others need it on their way: those go after."""

    def times(names: str) -> dict[str, str]:
        nodes = graph(*TINY, "--methods", names)
        return {node.text.split()[0]: node.text.split()[2] for node in nodes if " evaluated " in node.text}

    assert times("ifql,qgf") == {"ifql": "4", "qgf": "4"}
    assert times("iql,ifql,qgf") == {"iql": "4", "ifql": "4", "qgf": "4"}
    assert times("ifql,iql,qgf") == {"ifql": "4", "qgf": "4", "iql": "4"}
    # first bc's flow, of 20 steps, then the critic of those who use that flow, then the actor that reads the critic
    assert times("iql,ifql,qgf,bc") == {"iql": "4", "ifql": "4", "qgf": "4", "bc": "2"}


def test_a_pretrained_behaviour_is_shared_by_those_with_the_same_sampler() -> None:
    chosen = ("--methods", "vgf,best_of_n,bc,fql,ifql,rebrac", "--suite", "ogbench", "--tasks", CUBE)
    joint = graph(*chosen)
    assert [node.text.rpartition(", ")[2] for node in starting(joint, "joint: ")] == [
        f"for {name}" for name in ("vgf", "best_of_n", "fql", "rebrac")]  # fmt: skip
    pretrained = graph(*chosen, "--set", "behavior=pretrained")
    first, second = starting(pretrained, "behavior: ")
    assert first.text.endswith(", shared by 3: bc, vgf, best_of_n")  # ReLU, as VGF's code
    assert second.text.endswith(", shared by 2: fql, ifql")  # GELU, as FQL's
    own = {node.text.rpartition(" for ")[2]: node.above[-1] for node in starting(pretrained, "critic: ")}
    assert own == {"vgf": first.text, "best_of_n": first.text, "fql": second.text, "ifql": pretrained[0].text}
    assert len(starting(pretrained, "joint: ")) == 1  # ReBRAC imitates nobody


def test_what_looks_like_markup_is_printed_as_it_is(tmp_path: Path) -> None:
    path = tmp_path.parent / "data[red].npz"
    path.touch()
    nodes = graph("--methods", "bc", "--suite", "ogbench", "--tasks", CUBE, "--data", str(path))
    path.unlink()
    assert str(path) in nodes[0].text
