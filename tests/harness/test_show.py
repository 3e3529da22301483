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
from tasks.core import DataLocation
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
    for line in shown("--dry-run", *arguments):
        if line.startswith("to do: "):
            break
        depth = (len(line) - len(line.lstrip("│├└─ "))) // 4
        above = (*nodes[-1].above, nodes[-1].text)[:depth] if nodes else ()
        nodes.append(Node(line.lstrip("│├└─ "), above))
    return nodes


def starting(nodes: list[Node], start: str) -> list[Node]:
    return [node for node in nodes if node.text.startswith(start)]


def evaluated(nodes: list[Node]) -> dict[str, str]:
    """Run -> the program that it is evaluated in."""
    return {node.text.partition(" evaluated, ")[0]: node.above[-1] for node in nodes if " evaluated, " in node.text}


def test_each_program_stands_once_with_what_is_evaluated_in_it() -> None:
    data, behavior, bc, critic, best_of_n = graph(*TINY, "--methods", "best_of_n,bc")
    assert data.text == "toy  data: built-in, 2000 transitions"
    assert behavior.text == "behavior: FlowSampler imitation, gradient clip None; 20 steps, 2 lanes, seeds 0-1"
    assert critic.text == "critic: TD on behaviour proposals; 40 steps, 2 lanes, seeds 0-1"
    # 4 values of N x 3 episodes; BC's only stage is on its way
    assert best_of_n.text == "best_of_n evaluated, seeds 0-1, 12 episodes each"
    assert bc.text == "bc evaluated, seeds 0-1, 3 episodes each"
    assert critic.above == bc.above == (data.text, behavior.text) and best_of_n.above == (*critic.above, critic.text)
    assert shown(*TINY, "--methods", "best_of_n,bc", "--dry-run")[-1] == (
        "to do: 4 lanes in 2 programs; results: results/")  # fmt: skip


def test_a_tree_that_was_shown_is_not_shown_again() -> None:
    lines = shown("--suite", "ogbench", "--tasks", "cube-single-play-singletask-task[12]-v0", "--methods", "bc",
                  "--dry-run")  # fmt: skip
    heads = [line for line in lines if line.startswith("cube-single")]
    assert len(heads) == 2 and heads[1].endswith("; as cube-single-play-singletask-task1-v0")
    assert sum("bc evaluated" in line for line in lines) == 1
    assert any(line.startswith("to do: 10 lanes in 2 programs") for line in lines)


def test_how_long_it_takes_is_measured_on_demand() -> None:
    """2 s an update and seed."""
    nodes = graph(*TINY, "--methods", "best_of_n,bc", "--time")
    assert [node.text.rpartition(", ")[2] for node in nodes if "lanes" in node.text] == ["about 1 min", "about 3 min"]
    assert refused(*TINY, "--time") == "--time has no meaning without --dry-run"


def test_an_online_phase_hangs_from_the_offline_end() -> None:
    nodes = graph(*TINY, "--methods", "vgf,rebrac", "--online-steps", "50", "--online-evaluate-every", "20")
    vgf, rebrac = starting(nodes, "online: ")
    assert vgf.above[-1].startswith("critic: ") and rebrac.above[-1].startswith("joint: ")
    assert rebrac.text.endswith("; 50 environment steps, 40 updates, 2 lanes, seeds 0-1")  # 10 of the 50 warm up
    assert evaluated(nodes) == {"vgf": vgf.above[-1], "vgf online": vgf.text, "rebrac": rebrac.above[-1],
                                "rebrac online": rebrac.text}  # fmt: skip


def test_iql_s_critic_is_trained_once_for_all_who_use_it() -> None:
    users = ("iql", "ifql", "idql", "qgf", "best_of_n", "vgf")
    nodes = graph(*TINY, "--methods", ",".join(users), "--set", "best_of_n.critic=iql", "--set", "vgf.critic=iql")
    (critic,), (actor,) = starting(nodes, "critic: "), starting(nodes, "actor: ")
    assert critic.text == "critic: in-sample TD, expectile value; 40 steps, 2 lanes, seeds 0-1"
    assert critic.above == (nodes[0].text,) and actor.above[-1] == critic.text
    assert evaluated(nodes) == {name: critic.text for name in users} | {"iql": actor.text}
    assert len(starting(nodes, "behavior: ")) == 3  # idql's, qgf's, and that of the others


def test_settings_of_a_sweep_train_side_by_side_as_far_as_memory_goes() -> None:
    swept = (*TINY, "--methods", "fql", "--sweep", "fql.alpha=3,10")
    nodes = graph(*swept)
    (critic,) = starting(nodes, "critic: ")
    assert critic.text.endswith("; 40 steps, 4 lanes of different alpha, seeds 0-1")
    assert evaluated(nodes) == {"fql (alpha=3)": critic.text, "fql (alpha=10)": critic.text}
    cut = starting(graph(*swept, "--lanes", "3"), "critic: ")
    assert [node.text.rpartition("; ")[2] for node in cut] == ["40 steps, 2 lanes, seeds 0-1"] * 2


def test_seeds_stand_as_a_person_writes_them() -> None:
    nodes = graph(*TINY, "--methods", "bc", "--seeds", "0-2,7")
    assert [node.text.rpartition(", seeds ")[2] for node in nodes[1:]] == ["0-2, 7", "0-2, 7, 3 episodes each"]


def test_a_pretrained_behaviour_is_shared_by_those_with_the_same_sampler() -> None:
    chosen = ("--methods", "vgf,best_of_n,bc,fql,ifql,rebrac", "--suite", "ogbench", "--tasks", CUBE)
    joint = graph(*chosen)
    assert [evaluated(joint)[name].partition(":")[0] for name in ("vgf", "best_of_n", "fql", "rebrac")] == ["joint"] * 4
    pretrained = graph(*chosen, "--set", "behavior=pretrained")
    assert len(starting(pretrained, "behavior: ")) == 2  # ReLU, as VGF's code, and GELU, as FQL's
    users = {name: next(node for node in pretrained if node.text.startswith(f"{name} evaluated"))
             for name in ("vgf", "best_of_n", "bc", "fql")}  # fmt: skip
    assert {name: node.above[1].partition(":")[0] for name, node in users.items()} == dict.fromkeys(users, "behavior")
    rows = [pretrained.index(node) for node in users.values()]
    own = [max(row for row, node in enumerate(pretrained[:at]) if node.text.startswith("behavior: ")) for at in rows]
    assert own[0] == own[1] == own[2] != own[3]
    assert len(starting(pretrained, "joint: ")) == 1  # ReBRAC imitates nobody
    assert shown(*chosen, "--dry-run")[-1].startswith("what is finished of tasks without data cannot be told")


def test_what_looks_like_markup_is_printed_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{tmp_path}/data[red].npz"
    monkeypatch.setattr(ogbench.OGBenchTask, "data_location", lambda task, data: DataLocation(text, there=False))
    arguments = ("--methods", "bc", "--suite", "ogbench", "--tasks", CUBE, "--results", "r[bold]")
    assert graph(*arguments)[0].text.endswith(f"data: {text}")
    assert "; results: r[bold]/" in shown(*arguments, "--dry-run")[-2]
