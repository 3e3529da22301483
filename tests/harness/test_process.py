"""What terminals, batch systems and the machine do to runs: they save and say so, and each fails alone."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from harness import attempts, record, training
from harness.ending import Interrupted, Stop
from harness.evaluate import Evaluator
from harness.train import Trainer
from tests.harness.command import ROOT, TINY, Command, invoke

BC = (*TINY, "--methods", "bc")
PAIR = (*TINY, "--evaluate-every", "40", "--methods", "bc,bc_gaussian", "--results")

# The toy's simulators in worker processes. Before the n-th answer of a worker is waited for, it says so.
_POOL = """
import sys
number, sys.argv = int(sys.argv[1]), sys.argv[:1] + sys.argv[2:]
from core.command import main
from tasks.simulation.simulators import SimulatorPool
from tasks.toy.suite import ToyTask
ToyTask.cheap = False
receive, calls = SimulatorPool._receive, 0
def counted(self, worker):
    global calls
    calls += 1
    if calls == number:
        print("waiting", file=sys.stderr, flush=True)
        import time
        time.sleep(0.5)  # Ctrl-C arrives
    return receive(self, worker)
SimulatorPool._receive = counted
main("harness.run_command:app")
"""


def folder_of(results: Path, method: str = "bc", seed: int = 0) -> Path:
    (folder,) = (results / "runs" / "toy" / "toy" / method).glob(f"*/seed-{seed}")
    return folder


def record_of(results: Path, method: str = "bc", seed: int = 0) -> dict[str, Any]:
    return json.loads((folder_of(results, method, seed) / "run.json").read_text())


@pytest.mark.parametrize("number", [1, 7], ids=["while the first workers start", "in an evaluation"])
def test_ctrl_c_in_a_terminal_leaves_a_run_that_goes_on(command: Command, tmp_path: Path, number: int) -> None:
    """The terminal sends it to every process of the foreground, the workers too."""
    ours, theirs = pty.openpty()

    def foreground() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen([sys.executable, "-c", _POOL, str(number), *BC, "--results", str(tmp_path)], cwd=ROOT,
                               env=command.environment, stdin=theirs, stdout=theirs, stderr=theirs,
                               preexec_fn=foreground)  # fmt: skip
    os.close(theirs)
    seen = ""
    try:
        while "waiting" not in seen:
            seen += os.read(ours, 1000).decode()
        os.write(ours, b"\x03")
        while True:
            seen += os.read(ours, 1000).decode()
    except OSError:  # EIO: all of them are gone
        pass
    finally:
        os.close(ours)
    assert process.wait(60) == 130, seen
    assert "the same command continues" in seen and "Traceback" not in seen and "died" not in seen
    assert record_of(tmp_path)["status"] == "interrupted"


@pytest.mark.parametrize(
    "sent",
    ["SIGUSR1", *(pytest.param(one, marks=pytest.mark.slow) for one in ("SIGHUP", "SIGUSR2", "SIGXCPU", "SIGTERM"))],
)
def test_what_terminals_and_batch_systems_send_saves_the_run(
    sent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning may come twice, and SIGTERM does under `timeout`."""
    run, calls = Trainer.run, []

    def struck(self: Trainer, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            for _ in range(2):
                os.kill(os.getpid(), signal.Signals[sent])
                time.sleep(0.1)
        return run(self, *arguments)

    monkeypatch.setattr(Trainer, "run", struck)
    done = invoke(*BC, "--results", str(tmp_path))
    assert done.exit_code == 130 and "the same command continues" in done.stderr
    assert record_of(tmp_path)["status"] == "interrupted" and len(calls) == 1
    notes = [json.loads(path.read_text()) for path in (tmp_path / "artifacts").glob("*/stage.json")]
    assert [note["step"] for note in notes] == [10, 10] and record_of(tmp_path, seed=1)["status"] == "interrupted"
    again = invoke(*BC, "--results", str(tmp_path))
    assert again.exit_code == 0 and len(calls) == 2


def test_what_nohup_started_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop().listening() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_kills_without_a_word() -> None:
    code = ("import os, signal, time\nfrom harness.ending import Stop\n"
            "with Stop().listening() as stop:\n"
            "    os.kill(os.getpid(), signal.SIGINT)\n"
            "    print(stop(), flush=True)\n"
            "    os.kill(os.getpid(), signal.SIGINT)\n"
            "    time.sleep(60)\n")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "True\n", "")


def test_work_that_cannot_be_broken_off_is_given_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()
    stop.heed()
    stop.wish()
    stop.heed()
    monkeypatch.setattr(Stop, "PATIENCE_S", -1.0)
    with pytest.raises(Interrupted):
        stop.heed()


def test_whether_a_run_that_says_it_is_running_still_is(tmp_path: Path) -> None:
    """As results/README.md has it: the lock of a process that was killed is free."""
    code = ("import sys\nfrom pathlib import Path\nfrom harness.record import locked\n"
            "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n")  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, text=True, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdout and process.stdout.readline() == "held\n"

    def alive() -> bool:
        with (tmp_path / "lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    assert (tmp_path / "owner").read_text().split() == [str(process.pid), os.uname().nodename]
    assert alive()
    process.kill()
    process.communicate()
    assert not alive() and (tmp_path / "owner").exists()


# ---- each fails alone ----


class Exhausted(RuntimeError):
    """As JAX has it."""


@pytest.mark.parametrize("place, error, line", [
    ((training, "initial_state"), Exhausted("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
     "out of memory (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.)"),
    pytest.param((Trainer, "run"), MemoryError(), "out of memory (MemoryError)", marks=pytest.mark.slow),
    pytest.param((Evaluator, "run"), ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero",
                 marks=pytest.mark.slow),
    pytest.param((Evaluator, "__init__"), KeyError("x"), "KeyError: no 'x'", marks=pytest.mark.slow),
    ((Evaluator, "candidates"), OSError(5, "Input/output error", "here"), "OSError: Input/output error: here"),
], ids=["beginning", "training", "evaluation", "evaluator", "end"])  # fmt: skip
def test_an_error_nobody_foresaw_ends_its_run_alone(
    place: tuple[Any, str], error: Exception, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all its seeds. The traceback is kept where the line says, until the run is done again."""
    owner, name = place
    works, calls = getattr(owner, name), []

    def fails_first(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise error
        return works(*arguments, **named)

    monkeypatch.setattr(owner, name, fails_first)
    arguments = (*PAIR, str(tmp_path))
    done = invoke(*arguments)
    assert done.exit_code == 1 and "1 of 2 runs finished" in done.stderr and "Traceback" not in done.stderr
    folder = folder_of(tmp_path)
    assert f": failed: {line}; see {folder}/traceback.txt\n" in done.stderr and done.stderr.count("failed: ") == 1
    for seed in (0, 1):
        assert [record_of(tmp_path, seed=seed)[key] for key in ("status", "error")] == ["failed", line]
    assert record_of(tmp_path, "bc_gaussian")["status"] == "finished"
    assert (folder / "traceback.txt").read_text().splitlines()[-1].startswith(
        (type(error).__name__, f"{type(error).__module__}.{type(error).__name__}"))  # fmt: skip
    assert "2 of 2 runs finished" in invoke(*arguments).stderr and not (folder / "traceback.txt").exists()


def test_a_trial_whose_record_cannot_be_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is left out of what trains, with its lane, if nobody else wants that."""
    begin = record.TrialRecord

    def refuse(folder: Path, content: Any) -> Any:
        if (content["method"], content["seed"]) == ("bc", 0):
            raise ZeroDivisionError("at once")
        return begin(folder, content)

    monkeypatch.setattr(attempts, "TrialRecord", refuse)
    done = invoke(*PAIR, str(tmp_path))
    assert done.exit_code == 1 and "1 of 2 runs finished" in done.stderr
    assert "bc on toy, seed 0: failed: ZeroDivisionError: at once" in done.stderr
    assert record_of(tmp_path, seed=1)["status"] == "finished"


def test_results_that_are_removed_midway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lost its beginning is not written on, as if it were whole."""
    run, calls = Trainer.run, []

    def removing(self: Trainer, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            shutil.rmtree(tmp_path / "r")
        return run(self, *arguments)

    monkeypatch.setattr(Trainer, "run", removing)
    done = invoke(*PAIR, str(tmp_path / "r"))
    assert done.exit_code == 1 and "1 of 2 runs finished" in done.stderr
    for seed in (0, 1):
        assert f"bc on toy, seed {seed}: failed: FileNotFoundError: removed while the run wrote in it: " in done.stderr
    assert not (tmp_path / "r" / "runs" / "toy" / "toy" / "bc").exists()
    assert record_of(tmp_path / "r", "bc_gaussian")["status"] == "finished"


# ---- what is said, and where ----


@pytest.mark.slow
def test_a_terminal_that_is_gone_costs_no_run(command: Command, tmp_path: Path) -> None:
    process = command.start(*BC, "--results", str(tmp_path))
    assert process.stderr and process.stdout
    process.stderr.close()  # as of `2>&1 | head`
    process.stdout.close()
    assert process.wait(120) == 0 and record_of(tmp_path)["status"] == "finished"


def test_files_that_may_not_be_large_enough_are_one_line(command: Command, tmp_path: Path) -> None:
    prefix = ("sh", "-c", 'ulimit -f 20 && exec "$@"', "sh")
    process = command.start(*BC, "--set", "hidden_dims=64,64", "--results", str(tmp_path), prefix=prefix)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and "Traceback" not in err
    assert err.splitlines()[-1].startswith(f"error: {tmp_path} may not have files as large as are needed (ulimit -f)")


@pytest.mark.slow  # test_resume.py fills a disk in every run
def test_a_disk_that_fills_while_states_are_written_is_one_line(command: Command, tmp_path: Path) -> None:
    script = f'mount -t tmpfs -o size=300k none {tmp_path} && "$@"'
    prefix = ("unshare", "-rm", "sh", "-c", script, "sh")
    if not shutil.which("unshare") or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("no right to mount a disk")
    arguments = ("--preset", "smoke", "--methods", "bc,iql", "--jobs", "2", "--results", str(tmp_path / "r"))
    process = command.start(*arguments, prefix=prefix)
    _, err = process.communicate(timeout=300)
    lines = [line for line in err.splitlines() if not line.startswith(("bc on toy: step", "iql on toy: step"))]
    assert process.returncode == 2 and len(lines) == 1, err
    assert lines[0].startswith(f"error: {tmp_path}/r is full")
