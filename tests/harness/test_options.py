"""Nothing on the command line is passed over in silence, and what no machine can hold is refused before it is begun."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from core import memory
from harness import budget, train
from harness.run_command import app as run
from harness.throughput_command import app as throughput
from methods.core import BadInput
from tests.harness.command import ROOT, TINY, invoke, refused

CUBE = "--suite|ogbench|--tasks|cube-single-play-singletask-v0|--methods|bc|"
LANGUAGE = "--suite|tldr-synthetic|--preset|smoke|--methods|sft|"


@pytest.mark.parametrize("option", ["methods", "suite", "tasks", "data", "preset", "set", "adopt", "results"])
@pytest.mark.parametrize("value", ["", " "])
def test_an_empty_option_is_refused(option: str, value: str) -> None:
    assert refused(f"--{option}", value) == f"--{option}: is empty"


@pytest.mark.parametrize("arguments, line", [
    ("--methods|,", "--methods ',' names no method"),
    ("--methods|, ,", "--methods ', ,' names no method"),
    ("--show-config|,", "METHOD ',' names no method"),
    ("--list|--methods|vgf", "--methods has no meaning with --list"),
    ("--list|--dry-run", "--dry-run has no meaning with --list"),
    ("--show-config|--dry-run", "--dry-run has no meaning with --show-config"),
    ("--jobs|1000000000", "--jobs 1000000000: expected at most 1000"),
    ("--online-warmup|5", "--online-warmup has no meaning without --online-steps"),
    ("--data-episodes|5", "--data-episodes has no meaning for suite toy: nothing is generated in that size"),
    (CUBE + "--data|download|--data-episodes|5", "--data-episodes has no meaning for --data download: "),
])  # fmt: skip
def test_what_has_no_meaning_is_refused(arguments: str, line: str) -> None:
    assert refused(*arguments.split("|")).startswith(line)


CARRY_OUT = ("--lanes 2", "--fresh", "--resume", "--stale redo", "--adopt X", "--dry-run", "--show-config")


@pytest.mark.parametrize("words", CARRY_OUT)
def test_what_no_plan_holds_is_refused_beside_save_plan(words: str, tmp_path: Path) -> None:
    name = "--resume/--fresh" if words in ("--fresh", "--resume") else words.split()[0]
    line = refused("--methods", "bc", "--save-plan", str(tmp_path / "plan.toml"), *words.split())
    assert line == f"{name} has no meaning with --save-plan: it belongs to the command that carries the plan out"
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("words, name", [
    ("--seeds 3 --seeds 2", "--seeds"), ("--seeds=3 --methods bc --seeds=3", "--seeds"),
    ("--methods bc --methods fql", "--methods"), ("--data-episodes 3 --data-episodes 4", "--data-episodes"),
    ("--fresh --resume", "--resume/--fresh"), ("--dry-run --dry-run", "--dry-run"),
    ("--show-config bc --preset smoke --preset cpu", "--preset"), ("--list --suite toy --suite ogbench", "--suite"),
])  # fmt: skip
def test_an_option_of_one_value_is_given_once(words: str, name: str) -> None:
    done = CliRunner().invoke(run, words.split(), catch_exceptions=False)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"error: {name}: is given twice, and has one value\n"


def test_options_of_several_values_are_given_as_often_as_one_likes() -> None:
    done = invoke("--show-config", "bc", "--set", "bc.batch_size=8", "--set", "bc.batch_size=4321")
    assert done.exit_code == 0 and "4321" in done.stdout, done.stderr


@pytest.mark.parametrize("arguments, line", [
    ("--methods|bc|--seeds|2000000000", "--seeds 2000000000: 2000000000 seeds are more than anybody has trained"),
    ("--methods|bc|--seeds|90000|--set|hidden_dims=9000,9000", "bc on toy: the parts of 90000 seeds need at least "),
    ("--methods|bc|--seeds|99999999999", "--seeds 99999999999: expected how many (5), a range "),
    ("--methods|bc|--episodes|2000000000", "bc on toy: 10000000000 episodes side by side (5 seeds x 1 settings x "),
    ("--methods|bc|--steps|1000000000000000000000", "--steps: steps=1000000000000000000000 is not at most 2147483647"),
    ("--methods|iql|--steps|2147483647|--online-steps|2000000000|--seeds|1|--episodes|1|--evaluate-every|2147483647",
     "iql online on toy: stage online ends at step 4147483647, and steps are counted to 2147483647"),
    ("--methods|iql|--evaluate-every|1|--steps|2000000000", "iql on toy: the rows of 2000000000 evaluations of "),
    ("--methods|iql|--set|hidden_dims=1000000,1000000", "iql on toy: the parts of 5 seeds need at least "),
    ("--methods|iql|--set|batch_size=2000000000", "iql on toy: batches for each of 5 seeds need at least "),
    ("--methods|iql|--set|batch_size=" + "9" * 5000, "--set: batch_size=" + "9" * 57 + "... is not "),
    ("--methods|iql|--online-steps|2000000000|--seeds|100", "iql online on toy: the replay buffers of 100 seeds need "),
    (CUBE + "--data|generate|--data-episodes|2000000000", "--data-episodes 2000000000: they take at least "),
    (LANGUAGE + "--set|width=1000000", "sft on tldr-synthetic: the parts of 2 seeds need at least "),
    (LANGUAGE + "--seeds|90000|--set|width=4096", "sft on tldr-synthetic: the parts of 90000 seeds need at least "),
])  # fmt: skip
def test_sizes_that_nothing_holds_are_refused_before_anything_is_begun(
    arguments: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine of 64 GB: a larger one must not be asked to try."""
    if "tldr" in arguments:
        pytest.importorskip("torch")
    for module in (budget, train):
        monkeypatch.setattr(module, "host_memory", lambda: 64e9)
        monkeypatch.setattr(train, "device_memory", lambda: None)
    monkeypatch.setattr(budget.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 100e9}))
    results = tmp_path / "results"
    for more in ((), ("--dry-run",)):
        assert refused(*arguments.split("|"), "--results", str(results), *more).startswith(line)
    assert not results.exists()


def test_every_preset_of_every_suite_fits_into_a_small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is what cannot be: bounds must not be in the way of anybody's work."""
    for module in (budget, train):
        monkeypatch.setattr(module, "host_memory", lambda: 8e9)
    for arguments in (("--suite", "toy"), ("--suite", "toy", "--preset", "paper", "--seeds", "50"),
                      ("--suite", "ogbench", "--tasks", "humanoidmaze-giant-navigate-singletask-v0")):  # fmt: skip
        assert invoke(*arguments, "--show-config").exit_code == 0


@pytest.mark.slow
def test_a_program_that_does_not_fit_fails_its_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told by the compiled program, before it runs: a system that lends memory it has not kills later."""
    monkeypatch.setattr(train, "host_memory", lambda: 20e6)
    wide = ("--set", "bc.batch_size=30000", "--set", "bc.hidden_dims=64", "--methods", "bc,bc_gaussian")
    done = invoke(*TINY, *wide, "--results", str(tmp_path))
    assert done.exit_code == 1 and "1 of 2 runs finished" in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "failed" in line]
    assert line.startswith("bc on toy, seeds 0-1: failed: stage behavior: out of memory: its program takes ")
    assert line.endswith(", and there is 20 MB; --lanes N trains fewer seeds and settings side by side")


def test_memory_is_that_of_the_process_not_the_machine() -> None:
    code = ("import resource; resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))\n"
            "from core.memory import host_memory; print(host_memory())")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert float(done.stdout) <= 1e9 < memory.host_memory()


@pytest.mark.parametrize("size, words", [(999.0, "999 bytes"), (2.5e9, "2.5 GB"), (3e22, "30,000 EB")])
def test_amounts_are_readable(size: float, words: str) -> None:
    assert memory.amount(size) == words


@pytest.mark.parametrize("arguments, line", [
    ("--methods|,", "--methods ',' names no method"), ("--methods|", "--methods: is empty"),
    ("--seeds|", "--seeds: is empty"), ("--seeds|1,,2", "--seeds 1,,2: expected positive whole numbers"),
    ("--seeds|1000000000", "vgf: 1000000000 seeds need at least "),
    ("--obs-dim|2000000000", "the transitions need at least "),
    ("--methods|bc|--set|hidden_dims=1000000,1000000", "bc: 1 seeds need at least "),
    ("--out|/dev/full", "--out /dev/full: is not a plain file"), ("--out|/", "--out /: is not a plain file"),
    ("--out|/no/such/file", "--out /no/such/file: no folder /no/such"),
])  # fmt: skip
def test_throughput_refuses_likewise(arguments: str, line: str) -> None:
    done = CliRunner().invoke(throughput, arguments.split("|"), catch_exceptions=False)
    assert done.exit_code == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {line}")


@pytest.mark.parametrize("module, more", [
    ("harness.run", ("--methods", "bc")), ("harness.throughput", ()),
])  # fmt: skip
def test_a_device_that_is_not_there_is_one_line(module: str, more: tuple[str, ...], tmp_path: Path) -> None:
    environment = {**os.environ, "JAX_PLATFORMS": "abacus", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", module, *more], cwd=tmp_path, env=environment, capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: JAX_PLATFORMS=abacus: ") and "abacus" in done.stderr
    assert not any(tmp_path.iterdir())


def test_a_device_that_jax_has_no_words_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX_PLATFORMS=cuda where JAX was installed without it."""

    def devices() -> None:
        raise AssertionError

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(train.jax, "devices", devices)
    with pytest.raises(BadInput, match=r"^JAX_PLATFORMS=cuda: there is no such device here, or JAX was installed "):
        train.device_summary()


_WITHOUT = """
import sys
blocked = set(sys.argv.pop(1).split(","))
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
from core.command import main
main("harness.run_command:app")
"""
RLHF = "torch,transformers,tokenizers,safetensors,peft,accelerate,datasets,stable_baselines3,ray,trl,psutil"


NEEDED = "torch is not installed: pip install -c constraints.txt -e '.[rlhf]'\n"


@pytest.mark.parametrize("arguments, code, out, err", [
    (("--list",), 0, "suite toy\n", ""),
    (("--suite", "tldr-synthetic", "--preset", "smoke"), 2, "", f"error: {NEEDED}"),
    (("--suite", "hh", "--dry-run"), 2, "", f"error: {NEEDED}"),
])  # fmt: skip
def test_language_without_its_packages(
    arguments: tuple[str, ...], code: int, out: str, err: str, tmp_path: Path
) -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT, RLHF, *arguments], cwd=tmp_path, capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert (done.returncode, done.stderr) == (code, err) and out in done.stdout
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_rendering_backend_that_does_not_work_is_done_without(tmp_path: Path) -> None:
    """Nothing is rendered: neither listing the suites nor building their simulators needs one."""
    code = ("from tasks.d4rl import suite as d4rl\n"
            "from tasks.ogbench import suite as ogbench\n"
            "from harness.run_command import app\n"
            "app(['--list'], standalone_mode=False)\n"
            "for task in (ogbench.get('cube-single-play-singletask-v0'), d4rl.get('hopper-medium-v2')):\n"
            "    print(task.make_env().reset(seed=0)[0].shape == (task.spec.obs_dim,))\n")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "MUJOCO_GL": "nonsense", "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 0 and done.stdout.endswith("True\nTrue\n"), done.stderr
