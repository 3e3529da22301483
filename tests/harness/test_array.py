"""The submission script of a job array: what it says, what it refuses, and what it does when bash runs it, with Slurm's
variables set by hand and `scontrol` a file that notes how it is called."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core.command import INTERRUPTED
from harness.array_command import app
from tests.harness.command import ROOT, TINY, over

SLURM = ("--jobs", "2", "--time", "1h", "--before", "10m")
NOTES = """#!/bin/sh
all="$*"
echo "$all" >>"$0.log"
shard=${all#*--shard }
shard=${shard%% *}
"""
WAITS = 'trap "exit 130" USR1 TERM\necho begun\nwhile :; do sleep 0.05; done\n'  # as harness.run does, when it listens


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def refused(*arguments: str) -> str:
    """The one line on stderr of a command that must exit with 2."""
    done = invoke(*arguments)
    assert done.exit_code == 2 and done.stdout == "", (done.stdout, done.stderr)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def written(tmp_path: Path, *arguments: str) -> Path:
    """The script; `--results` is a folder of the test's own."""
    path = tmp_path / "submit.sh"
    options, words = (arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :])
    done = invoke(*options, "--out", str(path), "--", *words, "--results", str(tmp_path / "results"))
    assert done.exit_code == 0, done.stderr
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True).stderr == ""
    return path


class Node:
    """Where tasks run: `python` is this one, or a stand-in, and `scontrol` only notes how it is called."""

    def __init__(self, folder: Path, stand_in: str | None = None) -> None:
        self.bin, self.log = folder / "bin", folder / "bin" / "python.log"
        self.bin.mkdir()
        self._put("scontrol", NOTES)
        if stand_in is not None:
            self._put("python", NOTES + stand_in)
        python = str(Path(sys.executable).parent)
        self.environment = {**os.environ, "PATH": f"{self.bin}:{python}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
                            "SLURM_ARRAY_JOB_ID": "4711"}  # fmt: skip

    def _put(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def start(self, script: Path, task: int, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(script)], env={**self.environment, "SLURM_ARRAY_TASK_ID": str(task), **more}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, script: Path, task: int, **more: str) -> tuple[int, str]:
        process = self.start(script, task, **more)
        out, _ = process.communicate(timeout=300)
        return process.returncode, out

    @property
    def requeued(self) -> list[str]:
        log = self.bin / "scontrol.log"
        return log.read_text().splitlines() if log.exists() else []

    def calls(self) -> list[str]:
        """Of the stand-in for python, in no order."""
        return sorted(self.log.read_text().splitlines())


def warm(results: Path) -> None:
    """As if the first task had been there."""
    (results / ".compiled").mkdir(parents=True, exist_ok=True)
    (results / ".compiled" / "warm").touch()


def line_with(process: subprocess.Popen[str], words: str) -> str:
    """The next line that has them."""
    assert process.stdout
    return next(line for line in process.stdout if words in line)


# what it says


def test_what_slurm_is_asked_for(tmp_path: Path) -> None:
    script = written(tmp_path, "--scheduler", "slurm", "--jobs", "16", "--time", "4h", "--gpus", "1", "--cpus", "8",
                     "--memory", "32G", "--per-gpu", "4", "--partition", "gpu,long", "--account", "me", "--name", "vgf",
                     "--", "--suite", "ogbench", "--methods", "vgf,fql").read_text()  # fmt: skip
    first, *directives = script.split("\n\n")[0].splitlines()
    assert first == "#!/bin/bash"
    assert [line.removeprefix("#SBATCH --") for line in directives] == [
        "job-name=vgf", "partition=gpu,long", "account=me", "array=0-15", "time=04:00:00", "nodes=1", "ntasks=1",
        "cpus-per-task=8", "mem=32G", "gres=gpu:1", "signal=B:USR1@600", "requeue", "open-mode=append",
        "output=vgf-%A_%a.log"]  # fmt: skip
    lines = script.splitlines()
    for line in (
        f"compiled={tmp_path}/results/.compiled",
        'export JAX_COMPILATION_CACHE_DIR="$compiled" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=1',
        "export XLA_PYTHON_CLIENT_MEM_FRACTION=0.225",
        "for ((k = 0; k < 4; k++)); do",
        f"  python -m harness.run --suite ogbench --methods vgf,fql --results {tmp_path}/results \\",
        '    --shard "$((task * 4 + k))/64" --stop-after "$((left > 0 ? left : 1))s" &',
        '  scontrol requeue "$SLURM_ARRAY_JOB_ID"_"$SLURM_ARRAY_TASK_ID" || echo "not queued again: submit the script '
        'anew" >&2',
        f"cd {Path.cwd()} || exit 2",
    ):
        assert line in lines, line
    assert "limit=13800  # seconds after which every process saves and stops" in lines  # 3h50m


def test_what_is_not_asked_for_is_left_to_slurm(tmp_path: Path) -> None:
    script = written(tmp_path, "--jobs", "1", "--time", "26h1m1s", "--", "--methods", "bc").read_text()
    assert "#SBATCH --array=0-0\n#SBATCH --time=1-02:01:01\n" in script and "#SBATCH --job-name=runs\n" in script
    assert not any(word in script for word in ("--mem", "--gres", "--cpus", "--partition", "--account", "FRACTION"))
    assert 'SECONDS" -lt 600 ]' in script


def test_the_others_wait_for_half_of_a_short_time_at_most(tmp_path: Path) -> None:
    assert (
        '-lt 30 ] && [ "$heard"' in written(tmp_path, *SLURM[:2], "--time", "70s", "--before", "10s", "--").read_text()
    )


@pytest.mark.parametrize("arguments, line", [
    ("--jobs 0 --time 4h --", "--jobs 0: expected at least 1"),
    ("--jobs 300000 --time 4h --gpus 2 --per-gpu 2 --", "--jobs 300000: expected at most 249999"),
    ("--jobs 4 --time 4 --", "--time 4: expected days, hours, minutes or seconds, such as 3h50m"),
    ("--jobs 4 --time 4h --before x --", "--before x: expected days, hours, "),
    ("--jobs 4 --time 5m --", "--before 10m: expected less than --time 5m"),
    ("--jobs 4 --time 2d --before 1d --", "--before 1d: expected at most 65535s"),
    ("--jobs 4 --time 4h --gpus 0 --", "--gpus 0: expected at least 1"),
    ("--jobs 4 --time 4h --cpus -1 --", "--cpus -1: expected at least 1"),
    ("--jobs 4 --time 4h --per-gpu 0 --", "--per-gpu 0: expected at least 1"),
    ("--jobs 4 --time 4h --memory 32GB --", "--memory 32GB: expected a number with K, M, G or T, such as 32G"),
    ("--jobs 4 --time 4h --name a/b --", "--name a/b: expected letters, digits and any of "),
    ("--jobs 4 --time 4h --scheduler slrm --", "--scheduler slrm: unknown; did you mean 'slurm'?"),
    ("--jobs 4 --time 4h --setup if --", "--setup if: bash cannot read it: bash: line "),
    ("--jobs 4 --time 4h --setup <<X --", "--setup <<X: bash cannot read it: bash: line "),
    ("--jobs 4 --jobs 5 --time 4h --", "--jobs: is given twice, and has one value"),
    ("--jobs 4 --time 4h -- --shard 0/2", "--shard has no meaning in an array: the script says it of every process"),
    ("--jobs 4 --time 4h -- --stop-after 1h", "--stop-after has no meaning in an array: the script says it, by "),
    ("--jobs 4 --time 4h -- --fresh", "--fresh has no meaning in an array: it would delete what the other tasks do"),
    ("--jobs 4 --time 4h -- --dry-run", "--dry-run has no meaning in an array: nothing would be carried out"),
    ("--jobs 4 --time 4h -- --list", "--list has no meaning in an array: nothing would be carried out"),
    ("--jobs 4 --time 4h -- --show-config", "--show-config has no meaning in an array: "),
    ("--jobs 4 --time 4h -- --save-plan x", "--save-plan has no meaning in an array: "),
    ("--jobs 4 --time 4h -- --on ray", "--on has no meaning in an array: its tasks are the processes"),
    ("--jobs 4 --time 4h -- --sheds 3", "No such option: --sheds"),
    ("--jobs 4 --time 4h -- --steps x", "Invalid value for '--steps'"),
    ("--jobs 4 --time 4h -- vgf", "unexpected argument 'vgf' among the options of harness.run"),
    ("--jobs 4 --time 4h -- --methods fqll", "unknown method 'fqll'; did you mean 'fql'?"),
    ("--jobs 4 --time 4h -- --set vgf.step_sise=1", "--set step_sise: no such setting in vgf; did you mean "),
    ("--jobs 4 --time 4h -- --set vgf.step_size=-1", "--set: step_size=-1 is not positive"),
    ("--jobs 4 --time 4h -- --seeds 2 --seeds 3", "--seeds: is given twice, and has one value"),
    ("--jobs 4 --time 4h -- --episodes 0", "--episodes 0: expected at least 1"),
    ("--jobs 4 --time 4h -- --lanes 0", "--lanes 0: expected a whole number above 0, or auto"),
    ("--jobs 4 --time 4h -- --plan nowhere.toml", "--plan nowhere.toml: "),
])  # fmt: skip
def test_what_cannot_be_is_one_line_and_nothing_is_written(arguments: str, line: str, tmp_path: Path) -> None:
    words = arguments.split()
    place = words.index("--")
    assert refused(*words[:place], "--out", str(tmp_path / "submit.sh"), *words[place:]).startswith(line)
    assert not any(tmp_path.iterdir())


def test_a_script_that_cannot_be_written(tmp_path: Path) -> None:
    for path, complaint in ((tmp_path, "is not a plain file"), (tmp_path / "a" / "b", f"no folder {tmp_path}/a")):
        assert refused(*SLURM, "--out", str(path), "--") == f"--out {path}: {complaint}"


def test_options_that_are_missing_are_one_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "harness.array", "--jobs", "4"], cwd=tmp_path, capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: Missing option '--time'.\n")


def test_no_device_is_asked_for_where_it_is_written(tmp_path: Path) -> None:
    """On a machine that only submits there is none."""
    done = subprocess.run(
        [sys.executable, "-m", "harness.array", *SLURM, "--", "--methods", "bc"], cwd=tmp_path, capture_output=True,
        text=True, env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "abacus"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr == "submit.sh: 2 tasks of 1 processes, to share runs: 1; to submit it: sbatch submit.sh\n"


# what it does, with a stand-in for python


def test_words_reach_harness_run_as_they_were_given(tmp_path: Path) -> None:
    node = Node(tmp_path, f'for one in "$@"; do printf "[%s]\\n" "$one"; done >{shlex.quote(str(tmp_path))}/words\n')
    plan = tmp_path / "it's a $HOME `plan`.toml"
    plan.write_text('methods = ["bc"]\n')
    words = ("--plan", str(plan), "--set", "bc.learning_rate= 1e-3")
    assert node.run(written(tmp_path, *SLURM, "--", *words), 0) == (0, "")
    *got, after, time_left = (tmp_path / "words").read_text().splitlines()
    all_words = ("-m", "harness.run", *words, "--results", str(tmp_path / "results"), "--shard", "0/2")
    assert [*got, after] == [f"[{word}]" for word in (*all_words, "--stop-after")]
    assert 2900 < int(time_left.strip("[s]")) <= 3000


def test_processes_of_a_task_share_its_gpus(tmp_path: Path) -> None:
    """Each is a shard of its own; of two GPUs, each has two, by the numbers that Slurm gave."""
    shown = 'echo "$shard on $CUDA_VISIBLE_DEVICES: $XLA_PYTHON_CLIENT_MEM_FRACTION ${XLA_CLIENT_MEM_FRACTION-alone}"\n'
    node = Node(tmp_path, shown)
    script = written(tmp_path, *SLURM, "--gpus", "2", "--per-gpu", "2", "--")
    warm(tmp_path / "results")
    code, out = node.run(script, 1, CUDA_VISIBLE_DEVICES="3,5", XLA_CLIENT_MEM_FRACTION="0.7")
    assert code == 0
    assert sorted(out.splitlines()) == [
        "4/8 on 3: 0.45 alone", "5/8 on 3: 0.45 alone", "6/8 on 5: 0.45 alone", "7/8 on 5: 0.45 alone"]  # fmt: skip


def test_setup_comes_first_and_may_use_what_is_not_set(tmp_path: Path) -> None:
    node = Node(tmp_path, 'echo "$READY"')
    setup = 'export READY="yes$UNSET"  # of a module'
    assert node.run(written(tmp_path, *SLURM, "--setup", setup, "--"), 0) == (0, "yes\n")


@pytest.mark.parametrize("codes, code, again", [
    ("0 0 0", 0, False), ("0 1 0", 1, False), ("1 2 0", 2, False), ("137 1 0", 137, False),
    ("0 130 0", INTERRUPTED, True), ("2 130 1", INTERRUPTED, True),
])  # fmt: skip
def test_the_worst_code_is_the_task_s_and_what_stopped_is_queued_again(
    codes: str, code: int, again: bool, tmp_path: Path
) -> None:
    node = Node(tmp_path, f'set -- {codes}\nshift "${{shard%%/*}}"\nexit "$1"\n')
    script = written(tmp_path, *SLURM, "--per-gpu", "3", "--")
    assert node.run(script, 0)[0] == code
    assert node.requeued == (["requeue 4711_0"] if again else []) and len(node.calls()) == 3


@pytest.mark.parametrize("number, code, again", [
    (signal.SIGUSR1, INTERRUPTED, True), (signal.SIGTERM, INTERRUPTED, False),
])  # fmt: skip
def test_signals_reach_all_processes(number: int, code: int, again: bool, tmp_path: Path) -> None:
    """Slurm's warning, and its end: who cancels an array does not want it back."""
    node = Node(tmp_path, WAITS)
    process = node.start(written(tmp_path, *SLURM, "--per-gpu", "2", "--"), 0)
    for _ in range(2):
        line_with(process, "begun")
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code and node.requeued == (["requeue 4711_0"] if again else [])


def test_a_warning_before_anybody_listens(tmp_path: Path) -> None:
    node = Node(tmp_path, "echo begun\nexec sleep 600\n")
    process = node.start(written(tmp_path, *SLURM, "--"), 0)
    line_with(process, "begun")
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED and node.requeued == ["requeue 4711_0"]


def test_a_warning_while_the_first_is_waited_for(tmp_path: Path) -> None:
    node = Node(tmp_path, "")
    process = node.start(written(tmp_path, *SLURM, "--setup", "echo here", "--"), 1)
    line_with(process, "here")
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED and node.requeued == ["requeue 4711_1"] and not node.log.exists()


def test_the_others_wait_for_the_first(tmp_path: Path) -> None:
    node = Node(tmp_path, "echo begun")
    script = written(tmp_path, *SLURM, "--setup", "echo here", "--")
    second = node.start(script, 1)
    line_with(second, "here")
    time.sleep(0.5)
    assert not node.log.exists()
    assert node.run(script, 0)[0] == 0 and (tmp_path / "results" / ".compiled" / "warm").exists()
    second.communicate(timeout=60)
    assert second.returncode == 0 and [call.split()[5] for call in node.calls()] == ["0/2", "1/2"]


def test_the_time_that_was_waited_counts(tmp_path: Path) -> None:
    """Nobody but task 1 is there: it waits for half of its time, and has the other half."""
    node = Node(tmp_path, "")
    script = written(tmp_path, "--jobs", "2", "--time", "6s", "--before", "2s", "--")
    assert node.run(script, 1)[0] == 0
    (call,) = node.calls()
    assert call.split()[-2:] in (["--stop-after", "2s"], ["--stop-after", "1s"])


def test_without_an_array_it_says_so(tmp_path: Path) -> None:
    node = Node(tmp_path, "")
    script = written(tmp_path, *SLURM, "--")
    environment = {name: value for name, value in node.environment.items() if name != "SLURM_ARRAY_TASK_ID"}
    done = subprocess.run(["bash", str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and "submit this script with sbatch" in done.stderr and not node.log.exists()


# what it does, for real


def statuses(results: Path) -> list[str]:
    return [json.loads(path.read_text())["status"] for path in (results / "runs").rglob("run.json")]


def test_two_tasks_finish_all_runs(tmp_path: Path) -> None:
    """One after the other, two processes each."""
    node = Node(tmp_path)
    words = over((*TINY, "--methods", "bc,bc_gaussian"))
    script = written(tmp_path, *SLURM, "--per-gpu", "2", "--", *words)
    for task in (0, 1):
        code, out = node.run(script, task)
        assert code == 0 and out.count("2 of 2 runs finished") == 2, out
    assert statuses(tmp_path / "results") == ["finished"] * 4 and node.requeued == []


def test_a_task_that_is_warned_goes_on_when_it_is_queued_again(tmp_path: Path) -> None:
    node = Node(tmp_path)
    words = over((*TINY, "--methods", "bc", "--set", "bc.behavior_steps=8000", "--evaluate-every", "200"))
    script = written(tmp_path, *SLURM, "--", *words)
    warm(tmp_path / "results")
    process = node.start(script, 1, SLURM_ARRAY_JOB_ID="12")
    line_with(process, "step 400: ")
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED and node.requeued == ["requeue 12_1"], out
    assert statuses(tmp_path / "results") == ["interrupted"] * 2 and "the same command continues" in out
    code, out = node.run(script, 1)
    assert code == 0 and "1 of 1 runs finished" in out and "step 400: " not in out
    assert statuses(tmp_path / "results") == ["finished"] * 2 and len(node.requeued) == 1
