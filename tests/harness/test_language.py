"""Language runs through the same plan, records and resume as all others."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from harness.backbones import Backbones
from harness.export import app as export
from harness.files import contents
from harness.language import EXTRA, LanguageEvaluator
from harness.record import read_run
from harness.store import LaneStore
from harness.tensors import TensorFormat
from methods.language.core import LanguageConfig, Part
from tests.harness.command import ROOT, Command, invoke

SUITE = ("--suite", "tldr-synthetic", "--preset", "smoke")
ALL = "sft,dpo,ppo,best_of_n,vgf"
SEEDS, EPISODES = 2, 6


def go(results: Path, *arguments: str) -> Any:
    threads = torch.get_num_threads()
    try:
        return invoke(*SUITE, "--results", str(results), *arguments)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of all five methods, never interrupted. Not to be changed."""
    results = tmp_path_factory.mktemp("language") / "results"
    done = go(results, "--methods", ALL)
    assert done.exit_code == 0, done.stderr
    return results


def run_of(results: Path, method: str, seed: int = 0) -> Path:
    """The folder of one seed."""
    (folder,) = (results / "runs" / "tldr-synthetic" / "tldr-synthetic" / method).glob(f"*/seed-{seed}")
    return folder


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "episodes.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def lanes(folder: Path) -> list[str]:
    """Fingerprints of what a seed is made of."""
    return (folder / "stages").read_text().split()


def test_every_method_has_its_record(whole: Path) -> None:
    settings = {"sft": 1, "dpo": 1, "ppo": 1, "best_of_n": 3, "vgf": 3}
    knobs: dict[str, list[str]] = {"best_of_n": ["N"], "vgf": ["L_test"]}
    for method, count in settings.items():
        folders = [run_of(whole, method, seed) for seed in range(SEEDS)]
        meta, rows = read_run(folders[0]), [row for folder in folders for row in table(folder)]
        assert [read_run(folder)["seed"] for folder in folders] == [0, 1]
        assert meta["status"] == "finished" and meta["knobs"] == knobs.get(method, [])
        assert list(rows[0]) == ["seed", "phase", "step", *meta["knobs"], "episode", "return", "length", "success",
                                 "score", *EXTRA]  # fmt: skip
        assert len(rows) == SEEDS * count * EPISODES and {row["phase"] for row in rows} == {"final"}
        assert {row["step"] for row in rows} == {"13" if method in ("dpo", "ppo") else "10"}
        for row in rows:
            assert row["score"] in ("0", "0.5", "1") and row["success"] == str(int(row["score"] == "1"))
            assert row["return"] == row["gold"] and float(row["proxy"]) == float(row["proxy"])
            assert 0 <= int(row["length"]) <= 16 and float(row["nll"]) > 0
        nothing = {
            "transport": method != "vgf",
            "kl": method not in ("sft", "dpo", "ppo"),
            "edit_fraction": method in ("dpo", "ppo"),
        }
        for name, empty in nothing.items():
            assert all((row[name] == "nan") == empty for row in rows), (method, name)


def test_compute_is_counted(whole: Path) -> None:
    counted = {(row["L_test"], row["samples"], row["gradients"], row["compute"]) for row in table(run_of(whole, "vgf"))}
    assert counted == {("0", "3", "0", "6"), ("1", "3", "3", "30"), ("2", "3", "6", "39")}
    counted = {
        (row["N"], row["samples"], row["gradients"], row["compute"]) for row in table(run_of(whole, "best_of_n"))
    }
    assert counted == {("1", "1", "0", "2"), ("3", "3", "0", "6"), ("6", "6", "0", "12")}


def test_no_step_is_best_of_n_with_the_same_particles_exactly(whole: Path) -> None:
    mine = [row for row in texts(run_of(whole, "vgf")) if row["L_test"] == 0]
    theirs = [row for row in texts(run_of(whole, "best_of_n")) if row["N"] == 3]
    assert [row["response"] for row in mine] == [row["response"] for row in theirs]
    rows = [row for row in table(run_of(whole, "vgf")) if row["L_test"] == "0"]
    others = [row for row in table(run_of(whole, "best_of_n")) if row["N"] == "3"]
    for name in ("gold", "score", "length", "eos"):
        assert [row[name] for row in rows] == [row[name] for row in others]
    proxies = [[float(row["proxy"]) for row in some] for some in (rows, others)]
    assert proxies[0] == pytest.approx(proxies[1], rel=1e-4, abs=1e-5), "but for rounding, in batches of other shapes"
    assert [row["response"] for row in texts(run_of(whole, "best_of_n")) if row["N"] == 1] == [
        row["response"] for row in texts(run_of(whole, "sft"))
    ], "the first sample is SFT's answer"


def texts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "responses.jsonl").read_text().splitlines()]


def test_of_a_lane_counts_what_was_noted_and_no_more(tmp_path: Path) -> None:
    """What was killed while it wrote goes on from the step that was noted before."""
    parts = {"sft": Part({"a": torch.arange(6.0).reshape(2, 3), "none": torch.zeros(0)}, {"layers": 1})}
    store = LaneStore(tmp_path, {"steps": 4}, TensorFormat())
    store.save(2, {"paused": Part({"a": torch.ones(1)}, {})}, seconds=1.0)
    store.form.write(store.path(4), parts)  # the rest of `save` did not come about
    store.tidy()
    assert (
        store.current == 2 and not store.finished and [path.name for path in store.state.iterdir()] == ["2.safetensors"]
    )
    store.save(4, parts, finished=True, seconds=1.0)
    store.prune()
    assert store.finished and [path.name for path in store.state.iterdir()] == ["4.safetensors"]
    assert store.note and store.note["seconds"] == 2.0
    found = store.load()
    assert store.form.same(found, parts) and found["sft"].about == {"layers": 1}
    assert not store.form.same(found, {"sft": Part({**parts["sft"].tensors, "a": -torch.ones(2, 3)}, {})})


def test_no_verdict_is_no_failure() -> None:
    from types import SimpleNamespace

    run: Any = SimpleNamespace(settings=SimpleNamespace(episodes=3), method=SimpleNamespace(knobs=({},)))
    tensors = dict.fromkeys(("lengths", "verdicts", *EXTRA), torch.ones(3, 1))
    tensors["verdicts"] = torch.tensor([[1.0], [0.5], [torch.nan]])
    state = {part: {4: Part(tensors, {})} for part in ("responses", "verdicts")}
    found = LanguageEvaluator(run, (3, 4)).run(state, 0, [4], stop=lambda: False, progress=lambda done: None)
    rows: Any = found[4]
    assert found.keys() == {4} and [row["seed"] for row in rows] == [4, 4, 4]
    assert [row["success"] for row in rows[:2]] == [1, 0]
    assert np.isnan(rows[2]["success"]) and np.isnan(rows[2]["score"])


def test_the_record_names_what_language_runs_depend_on(whole: Path) -> None:
    assert {"torch", "transformers", "tokenizers"} <= set(read_run(run_of(whole, "sft"))["versions"])


def test_the_texts_are_there_for_another_judge(whole: Path) -> None:
    from tasks.language.tldr_synthetic.suite import TASK as TLDR_TASK

    folder = run_of(whole, "vgf")
    rows, measured = texts(folder), table(folder)
    assert [(str(r["seed"]), str(r["L_test"]), str(r["episode"])) for r in rows] == [
        (r["seed"], r["L_test"], r["episode"]) for r in measured
    ]
    examples = TLDR_TASK.load("auto").examples("test")
    for row, measures in zip(rows, measured, strict=True):
        assert (row["prompt"], row["reference"]) == examples[row["episode"]]
        gold, reference = (TLDR_TASK.gold(row["prompt"], row[name]) for name in ("response", "reference"))
        assert float(measures["gold"]) == pytest.approx(gold, abs=1e-5)
        assert float(measures["score"]) == (1.0 if gold > reference else 0.5 if gold == reference else 0.0)


def test_work_is_shared_and_skipped(whole: Path) -> None:
    stages = {method: lanes(run_of(whole, method)) for method in ALL.split(",")}
    shared = stages["sft"][:2]
    assert all(set(shared) <= set(found) for found in stages.values()), "one SFT model, one reward model for all"
    assert stages["sft"][2] == stages["best_of_n"][2] == stages["vgf"][2], "and one set of rollouts"
    made = {
        name: {stage["name"]: stage["origin"] for stage in read_run(run_of(whole, name))["stages"]} for name in stages
    }
    trained = [name for name, origins in made.items() if origins["sft"] == "trained"]
    assert len(trained) == 1
    assert not set(shared) & set(lanes(run_of(whole, "sft", 1))), "each seed's are its own"
    files = {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")}
    again = go(whole, "--methods", ALL)
    assert again.exit_code == 0 and again.stderr.count("finished before") == 5
    assert files == {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")}
    assert not list(whole.rglob("*.tmp")) and all(
        len(list(folder.iterdir())) == 1 for folder in whole.glob("artifacts/*/state")
    )


@pytest.mark.slow  # a job alone is stopped in tests/methods/language/test_losses.py
@pytest.mark.parametrize(
    "accident",
    [
        "methods.language.training:Training.run 2 after SIGTERM",  # of SFT's three spans, and again
        "harness.tensors:TensorFormat.write 3 before SIGKILL",  # between a seed's work and its being kept
        "methods.language.respond:Chunked.run 3 after SIGINT",  # while responding
        "harness.language:LanguageEvaluator.run 1 before SIGKILL",  # where all is there but the rows
    ],
)
def test_what_is_stopped_goes_on_as_if_it_had_not_been(
    accident: str, whole: Path, command: Command, tmp_path: Path
) -> None:
    arguments = (*SUITE, "--methods", "vgf", "--results", str(tmp_path))
    stopped = command.run(*arguments, accident=accident)
    assert stopped.returncode in (130, -9), stopped.stderr
    assert command.run(*arguments).returncode == 0
    for seed in range(SEEDS):
        mine, theirs = (run_of(results, "vgf", seed) for results in (tmp_path, whole))
        assert (mine / "episodes.csv").read_bytes() == (theirs / "episodes.csv").read_bytes()
        assert lanes(mine) == lanes(theirs)
        for lane in lanes(theirs):
            (path,) = (whole / "artifacts" / lane / "state").iterdir()
            (other,) = (tmp_path / "artifacts" / lane / "state").iterdir()
            assert TensorFormat().same(TensorFormat().read(path), TensorFormat().read(other))
        log = whole / "artifacts" / lanes(theirs)[0] / "train.csv"
        assert (tmp_path / log.relative_to(whole)).read_bytes() == log.read_bytes()


def test_the_training_log_has_a_row_a_span(whole: Path) -> None:
    rows = []
    for seed in range(SEEDS):
        with (whole / "artifacts" / lanes(run_of(whole, "dpo", seed))[0] / "train.csv").open(newline="") as file:
            rows += list(csv.DictReader(file))
    assert [(row["seed"], row["step"]) for row in rows] == [(s, n) for s in "01" for n in "246"]
    assert set(rows[0]) == {"seed", "step", "sft/loss"} and all(float(row["sft/loss"]) > 0 for row in rows)


def test_an_artefact_is_adopted(whole: Path, tmp_path: Path) -> None:
    first = str(whole / "artifacts" / lanes(run_of(whole, "sft", 1))[0])
    done = go(tmp_path, "--methods", "sft", "--seeds", "1-1", "--adopt", first, "--set", "measure_proxy=off")
    assert done.exit_code == 0, done.stderr
    (stage, *_) = read_run(run_of(tmp_path, "sft", 1))["stages"]
    assert (stage["name"], stage["origin"]) == ("sft", "adopted")
    assert {row["proxy"] for row in table(run_of(tmp_path, "sft", 1))} == {"nan"}


def test_a_lane_s_model_is_exported(whole: Path, tmp_path: Path) -> None:
    """What it says of itself, and the weights, are the lane's; others load it as a checkpoint."""
    lane = whole / "artifacts" / lanes(run_of(whole, "sft", 1))[0]
    done = CliRunner().invoke(export, [str(lane), "--out", str(tmp_path / "sft")], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    note, path = json.loads((tmp_path / "sft" / "checkpoint.json").read_text()), str(tmp_path / "sft")
    assert (note["stage"], note["fingerprint"], note["seed"]) == ("sft", lane.name, 1)
    assert note["command"] == f"python -m harness.export results/artifacts/{lane.name} --out PATH"
    assert note["sha256"] == contents(path)
    models = Backbones(LanguageConfig(sft_checkpoint=path), 10, 20, frozenset([contents(path)]))
    mine = LaneStore(lane, note["identity"], TensorFormat()).load()["sft"].tensors
    theirs = models.given("sft").state_dict()
    assert mine and all(torch.equal(theirs[name], tensor) for name, tensor in mine.items())
    rollouts = whole / "artifacts" / lanes(run_of(whole, "sft", 1))[2]
    for source, out, line in (
        (lane, path, f"--out {path}: exists already"),
        (rollouts, f"{path}-2", f"{rollouts}: no finished stage that trained a model to export"),
    ):
        again = CliRunner().invoke(export, [str(source), "--out", out])
        assert again.exit_code == 2 and again.stderr.startswith(f"error: {line}"), again.stderr
    assert [folder.name for folder in tmp_path.iterdir()] == ["sft"]


def test_the_reward_model_judges_methods_that_have_none() -> None:
    from harness.config import RunSettings, parse_set
    from harness.plan import plan_run
    from tasks.core import choose
    from tasks.language.tldr_synthetic.suite import TASK as TLDR_TASK

    task, settings = choose(TLDR_TASK, {"judge": "proxy"}), RunSettings((0,), 4, 2, 2)
    for method in ("sft", "dpo"):
        measured, not_measured = (
            plan_run(task, "x", method, parse_set([f"measure_proxy={on}"], "language"), settings)
            for on in ("on", "off")
        )
        one, other = (
            {lane.node.stage.name: lane.fingerprint for lane in run.lanes(0)} for run in (measured, not_measured)
        )
        assert "reward_model" in other and one == other, "judged as if it had been measured"


def test_the_control_half_never_imports_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from harness.run_command import app\n"
        "done = CliRunner().invoke(app, sys.argv[1:], catch_exceptions=False)\n"
        "assert done.exit_code == 0, done.stderr\n"
        "found = {'torch', 'transformers', 'tokenizers', 'datasets', 'peft'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    sizes = ("--seeds", "1", "--steps", "2", "--episodes", "1", "--set", "hidden_dims=4")
    arguments = ("--preset", "smoke", "--methods", "bc_gaussian", *sizes, "--results", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_listing_and_settings_know_language_methods() -> None:
    listed = invoke("--list", "--suite", "tldr-synthetic").stdout
    assert "language methods" in listed and all(f"  {name}" in listed for name in ALL.split(","))
    shown = invoke("--show-config", "vgf", "tldr-synthetic")
    assert shown.exit_code == 0 and "test_flow_steps" in shown.stdout and "surrogate" in shown.stdout
    planned = invoke(*SUITE, "--dry-run", "--methods", "vgf,sft")
    assert planned.exit_code == 0 and "to do: 14 lanes" in planned.stdout, "SFT, reward model and rollouts once a seed"
    assert "vgf evaluated, seed 1" in planned.stdout
