"""The commands of docs/vgf-reproduction.md, resolved, against what VGF's scripts pass."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from harness.plan import RunNode
from tests.harness.command import ROOT, invoke

COMMANDS = [line for line in (ROOT / "docs/vgf-reproduction.md").read_text().splitlines()
            if line.startswith("python -m harness.run ")]  # fmt: skip
AS_PAPER, SCRIPTS = COMMANDS[:2], COMMANDS[2:]
MILLION = 1_000_000
LARGE = ("antmaze-large-play-v2", "antmaze-large-diverse-v2")
TASK_4 = "puzzle-{}-play-singletask-task4-v0"
AMORTISED = {  # run_a_vgf_off2on_ogbench.sh: discount, aggregation, L_train, eps
    "antmaze-large-navigate": (0.995, "min", 5, 0.1), "antmaze-giant-navigate": (0.995, "min", 5, 0.1),
    "humanoidmaze-medium-navigate": (0.995, "mean", 1, 0.05), "humanoidmaze-large-navigate": (0.995, "mean", 1, 0.05),
    "antsoccer-arena-navigate": (0.995, "mean", 2, 0.05), "cube-single-play": (0.99, "mean", 1, 0.05),
    "cube-double-play": (0.99, "mean", 1, 0.05), "scene-play": (0.99, "mean", 1, 0.1),
    "puzzle-3x3-play": (0.99, "mean", 5, 0.1), "puzzle-4x4-play": (0.99, "mean", 5, 0.1),
}  # fmt: skip
EXPECTED = {  # (method, task, N, L_train, eps, alpha, discount, aggregation, steps, environment steps online)
    *(("vgf", TASK_4.format("4x4"), 10, 3, eps, alpha, 0.99, "mean", MILLION, 0)
      for eps in (0.01, 0.05) for alpha in (0.2, 0.5)),
    ("vgf", TASK_4.format("3x3"), 10, 5, 0.1, 1.0, 0.99, "mean", MILLION, MILLION),
    *(("vgf", task, 10, 5, 0.1, alpha, 0.99, "min", MILLION, 0) for task in LARGE for alpha in (0.05, 0.1)),
    *(("vgf", task, 10, 5, 0.1, 0.1, 0.99, "min", MILLION // 2, MILLION) for task in LARGE),
    *(("avgf", f"{name}-singletask-v0", 5, steps, eps, 1.0, discount, how, MILLION, MILLION)
      for name, (discount, how, steps, eps) in AMORTISED.items()),
    *(("avgf", task, 5, 5, 0.1, 1.0, 0.99, "min", MILLION, MILLION)
      for task in ("antmaze-medium-play-v2", "antmaze-large-diverse-v2")),
    *(("vgf", f"antmaze-{size}-navigate-singletask-task{task}-v0", 5, 5, 0.1, 1.0, discount, "min", steps, 0)
      for size, discount, steps in (("large", 0.995, 2 * MILLION), ("giant", 0.99, 3 * MILLION))
      for task in range(1, 6)),
}  # fmt: skip


def planned(command: str, monkeypatch: pytest.MonkeyPatch) -> list[RunNode]:
    """The runs of a command, as `--show-config` would print them."""
    runs: list[RunNode] = []
    monkeypatch.setattr("harness.show.settings", runs.extend)
    done = invoke(*shlex.split(command)[3:], "--show-config")
    assert done.exit_code == 0 and runs, done.stderr
    return runs


def settings(run: RunNode) -> tuple[Any, ...]:
    c: Any = run.resolved.config
    assert (c.flow_steps, c.behavior, c.batch_size, c.learning_rate) == (10, "joint", 256, 3e-4)
    assert c.hidden_dims == (512, 512, 512, 512)
    assert (c.test_flow_steps, run.settings.episodes, c.rewards) == ((0, 1, 2, 3), 50, "task")
    assert run.settings.evaluate_every == {"ogbench": 100_000, "d4rl": 50_000}[run.task.suite]
    return (run.method.name, run.task.name, c.n_particles, c.train_flow_steps, c.step_size, c.alpha, c.discount,
            c.q_aggregation, c.steps, run.settings.online_steps)  # fmt: skip


def test_the_commands_are_what_the_scripts_run(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [settings(run) for command in SCRIPTS for run in planned(command, monkeypatch)]
    assert set(found) == EXPECTED and len(found) == len(EXPECTED)


def test_the_paper_s_settings_differ_from_the_amortised_script_s_in_one_discount(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tables 4 and 6 as they resolve for both variants, all tasks of an environment alike."""
    runs = planned(AS_PAPER[0], monkeypatch)
    assert len(runs) == 2 * 45  # the paper's tasks; antmaze-large's are not among them
    assert len(planned(AS_PAPER[1], monkeypatch)) == 2 * 15
    for run in runs:
        name = run.task.name.partition("-singletask")[0]
        discount, how, steps, eps = AMORTISED[name]
        assert settings(run)[2:] == (5, steps, eps, 1.0, discount, how, MILLION, 0)
        assert run.resolved.origins["step_size"] == "VGF paper, Table 6; a_vgf script"
    (large,) = planned("python -m harness.run --methods vgf --tasks antmaze-large-navigate-singletask-v0", monkeypatch)
    assert large.resolved.config.discount == 0.99  # type: ignore[attr-defined]
    assert large.resolved.origins["discount"] == "VGF paper, Table 4; its code's scripts have 0.995"
