"""Windows of transitions, as the command sees them: what is refused, what is said and measured of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest

from harness import budget, estimate
from harness.config import RunSettings, parse_set
from harness.execute import Executor
from harness.measure import distinct_stages, measure, random_transitions
from harness.online import metric_names
from harness.plan import RunNode, describe, plan_online, plan_run
from harness.programs import Stored, programs
from harness.train import needed, take
from tasks.d4rl import suite as d4rl
from tests.harness.command import invoke, refused
from tests.harness.hopper import CHUNKS, command, hopper_file
from tests.tasks.d4rl_file import d4rl_file

HOPPER = d4rl.get("hopper-medium-v2")
SETTINGS = RunSettings(seeds=(0, 1), episodes=5, evaluate_every=20, log_every=10)

# ---- what cannot be ----


@pytest.mark.parametrize(
    ("arguments", "line"),
    [("--suite toy --methods vgf --set chunk=2", "vgf.chunk=2: an episode of toy has at most 1 step"),
     ("--suite toy --methods iql,fql --set fql.n_step=3",
      "fql.n_step=3: no episode of the data has so many transitions, the longest 1"),
     ("--suite toy --methods fql --set chunk=5 --set n_step=2",
      "n_step=2 is less than chunk=5: values go on where a chunk ends at the earliest; n_step=1 stands for that"),
     ("--suite toy --methods sfbc --set n_step=3",
      "sfbc takes single actions and whole returns: chunk=1, n_step=3"),
     ("--suite toy --methods vgf --set rewards=sparse",
      "vgf.rewards=sparse: the task must count what is unsolved (0, -1, ...), and its data have a reward of 0.807236"),
     ("--suite d4rl --tasks hopper-medium-v2 --methods fql --set chunk=5 --online-steps 20 --replay-capacity 4",
      "--replay-capacity 4: fql learns from 5 consecutive transitions (chunk, n_step)")],
)  # fmt: skip
def test_what_cannot_be_learned_is_refused_before_anything_is_written(
    arguments: str, line: str, tmp_path: Path
) -> None:
    assert refused("--preset", "smoke", *arguments.split(), "--results", str(tmp_path / "r")) == line
    assert not (tmp_path / "r").exists()


def test_data_with_fewer_rows_than_a_chunk_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As are those without an episode of so many; also by what only looks."""
    hopper = command(tmp_path, monkeypatch)
    short = d4rl_file(tmp_path / "short.hdf5")  # episodes of 3, 1, 4 and 1 rows, of which 7 are kept
    for chunk, rest in ((8, ()), (5, ("--dry-run",))):
        done = invoke(*hopper, *CHUNKS, "--data", str(short), "--set", f"chunk={chunk}", *rest)
        assert done.exit_code == 2 and done.stderr.splitlines()[-1] == (
            f"error: best_of_n.chunk={chunk}: no episode of the data has so many transitions, the longest 3"
        )
        assert not (tmp_path / "results").exists()


def test_a_task_whose_data_do_not_serve_is_passed_over_beside_one_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a line, as one whose data cannot be had; the exit code says that not all is done."""
    for variable in ("MINARI_DATASETS_PATH", "D4RL_DATASET_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for name, make in (("hopper-medium-v2", hopper_file), ("hopper-medium-replay-v2", d4rl_file)):
        make(tmp_path / "D4RL_DATASET_DIR" / d4rl.FILES[name].file)
    ran: list[str] = []

    def run(self: Executor, runs: Sequence[RunNode], *rest: Any, **how: Any) -> list[str]:
        ran.extend(run.task.name for run in runs)
        return ["finished"] * len(runs)

    monkeypatch.setattr(Executor, "run", run)
    done = invoke("--suite", "d4rl", "--tasks", "hopper-medium-replay-v2,hopper-medium-v2", "--preset", "smoke",
                  *CHUNKS, "--results", str(tmp_path / "results"))  # fmt: skip
    assert ran == ["hopper-medium-v2"] and done.exit_code == 1, done.stderr
    assert "hopper-medium-replay-v2: passed over: best_of_n.chunk=5: no episode of the data" in done.stderr


# ---- what is said and measured of them ----


def test_an_action_costs_its_share_of_a_chunk_s() -> None:
    """Best of 4, five Euler steps and a judge each: 24 passes for one action, or for five."""
    sets = parse_set(["best_of_n.test_n=4", "flow_steps=5"])
    costs = [describe(plan_run(HOPPER, "?", "best_of_n", (*sets, *parse_set([f"chunk={h}"])), SETTINGS).trials()[0])
             ["inference"]["costs"] for h in (1, 5)]  # fmt: skip
    assert costs == [[{"setting": {"N": 4}, "passes": 24, "gradients": 0.0}],
                     [{"setting": {"N": 4}, "passes": 4.8, "gradients": 0.0}]]  # fmt: skip


def test_batches_are_weighed_with_their_chunks_and_buffers_without() -> None:
    """float32: two observations of 11, the actions, a reward and a mask."""
    settings = replace(SETTINGS, online_steps=1000, online_warmup=10)
    sets = parse_set(["chunk=5", "batch_size=100"])
    run = plan_online(plan_run(HOPPER, "?", "fql", sets, settings))
    assert budget._batch(run) == 100 * 4 * (22 + 5 * 3 + 2) and budget._buffer(run) == 1000 * 4 * (22 + 3 + 2)


def test_windows_of_other_lengths_are_measured_apart() -> None:
    """Their updates take other times, though the critic is one of single actions; other discounts do not."""

    def kind(*sets: str) -> str:
        run = plan_run(HOPPER, "?", "iql", parse_set(["steps=10", *sets]), SETTINGS)
        trials = run.trials()
        first, *_ = programs(trials, lambda lane: Stored(), lambda lane: 10)
        return estimate._kind(first)

    assert len({kind(), kind("n_step=3"), kind("n_step=5")}) == 3
    assert kind("n_step=3") == kind("n_step=3", "discount=0.9")


def test_chunked_methods_are_timed_on_transitions_of_single_actions() -> None:
    """As throughput does it."""
    overrides = ("hidden_dims=8", "flow_steps=2", "batch_size=8", "chunk=2", "n_step=3")
    ((_, method, number),) = distinct_stages(["bc"], overrides, HOPPER.spec)
    assert method.spec.action_dim == 6
    assert measure(method, number, (0,), steps=2, repeats=1, loop=False).ms_scan > 0


def test_an_online_phase_knows_the_names_of_its_metrics_from_windows() -> None:
    method = plan_run(HOPPER, "?", "rebrac", parse_set(["chunk=3", "hidden_dims=8"]), SETTINGS).method
    columns = take(random_transitions(HOPPER.spec, 20), needed(method))
    stage, shapes = method.online(), jax.eval_shape(method.init, jax.random.key(0))
    assert stage
    names = metric_names(method.spec, stage, shapes, columns)
    assert {"critic/loss", "actor/loss", "actor/distance"} <= set(names)
