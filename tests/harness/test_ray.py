"""A plan on a Ray cluster: the order of pieces, and the same bytes as of one process whatever dies on the way."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from core.errors import BadInput
from harness import pieces
from harness.claim_files import InFolder
from harness.options import Execution
from harness.pieces import Outcome, Piece
from tests.harness import s3
from tests.harness.command import ROOT, SMALL, TINY, Command, over, refused
from tests.harness.nodes import Nodes, cluster, possible
from tests.harness.test_shards import contents, left

ray = pytest.importorskip("ray", reason="ray is not installed")

from harness import on_ray, ray_report  # noqa: E402  it imports Ray

HERE = {"RAY_ADDRESS": "local", "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
TOY = ("vgf,avgf,best_of_n,qgf,vgf_qgf,fql,fbrac,ifql,idql,iql,sfbc,ivr,bc,bc_gaussian,td3bc,rebrac,diffusion_ql",
       85)  # fmt: skip
CUBE = ("vgf,fql,rebrac", 6)
PLANS = {  # words, and the seeds' records that they lead to
    "toy": ((*TINY, "--methods", TOY[0], "--seeds", "5", "--lanes", "3"), TOY[1]),
    "cube-single": (("--suite", "ogbench", "--tasks", "cube-single-play-singletask-task2-v0", "--data", "generate",
                     "--preset", "smoke", "--methods", CUBE[0], "--seeds", "2", "--lanes", "1"), CUBE[1]),
}  # fmt: skip
_WITHOUT_JAX = """
import sys
from core.command import main
try:
    main("harness.run_command:app")
finally:
    print("jax" in sys.modules, file=sys.stderr)
"""


# the driver


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in HERE.items():
            patched.setenv(name, value)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
        yield
        ray.shutdown()


def driven(made: list[Piece], work: Any, stop: Any = lambda: False) -> tuple[list[tuple[int, Any]], str]:
    """What the driver yields, by number, and what it prints."""
    console = Console(file=io.StringIO(), width=200)
    driver = on_ray.Driver(on_ray.Cluster(), console, stop)
    found = [(piece.number, result) for piece, result in driver.each(made, work)]
    assert isinstance(console.file, io.StringIO)
    return found, console.file.getvalue()


def piece(number: int, *before: int) -> Piece:
    return Piece(number, "t", (f"lane-{number}",), f"piece {number}", before, 1.0)


def test_a_piece_waits_for_those_before_it(two_workers: None) -> None:
    @ray.remote(num_cpus=0.5)
    def work(number: int) -> Outcome:
        return Outcome({(str(number), 0): "finished"})

    made = [piece(0), piece(1, 0), piece(2, 0), piece(3, 1, 2), piece(4)]
    found, _ = driven(made, lambda one: work.remote(one.number))
    order = [number for number, _ in found]
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert all(order.index(before) < order.index(one.number) for one in made for before in one.before)
    assert all(result.statuses == {(str(number), 0): "finished"} for number, result in found)


def test_what_fails_is_one_line_and_the_others_go_on(two_workers: None) -> None:
    @ray.remote(num_cpus=0.5)
    def work(number: int) -> Outcome:
        if number == 1:
            raise BadInput("no such data")
        if number == 2:
            raise ZeroDivisionError("all of\nit")
        return Outcome({})

    found, _ = driven([piece(0), piece(1), piece(2), piece(3, 1)], lambda one: work.remote(one.number))
    results = dict(found)
    assert results[0] == results[3] == Outcome({})  # whoever is asked for 3 is told that lanes of 1 have failed
    assert str(results[1]) == "no such data" and str(results[2]).startswith("ZeroDivisionError: all of")
    assert "\n" not in str(results[2])


def test_what_another_driver_s_worker_has_is_asked_for_again(
    two_workers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "_AGAIN_S", 0.1)
    asked: list[int] = []

    @ray.remote(num_cpus=0.5)
    def work(there: bool) -> Outcome:
        return Outcome({("run", 0): "finished"}, elsewhere=there)

    def submit(one: Piece) -> Any:
        asked.append(one.number)
        return work.remote(len(asked) < 3)

    assert driven([piece(0)], submit)[0] == [(0, Outcome({("run", 0): "finished"}))] and asked == [0, 0, 0]


def test_how_far_it_is_is_told(two_workers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_report, "TELL_EVERY_S", 0.0)

    @ray.remote(num_cpus=0.5)
    def work(number: int) -> Outcome:
        return Outcome({})

    _, said = driven([piece(0), piece(1, 0)], lambda one: work.remote(one.number))
    assert "programs: 1 done, 0 running, 1 waiting; 50%" in said and "programs: 2 done" in said


# bad input


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    words = (*SMALL, "--results", str(tmp_path / "r"))
    assert refused(*words, "--on", "ray:127.0.0.1:1").startswith("--on ray:127.0.0.1:1: no cluster answers (")
    assert refused(*words, "--on", "slurm") == "--on slurm: expected ray or ray:ADDRESS"
    assert refused(*words, "--on", "ray", "--shard", "0/2").startswith("--shard has no meaning with --on")
    assert refused(*words, "--on", "ray", "--gpus-per-program", "-1").startswith("--gpus-per-program -1: expected")
    assert refused(*words, "--on", "ray", "--gpus-per-program", "1.5").startswith(
        "--gpus-per-program 1.5: expected a share"
    )
    assert refused(*words, "--on", "ray", "--cpus-per-program", "0.00001").startswith(
        "--cpus-per-program 1e-05: expected"
    )
    assert refused(*words, "--on", "slurm", "--dry-run") == "--on slurm: expected ray or ray:ADDRESS"
    assert refused(*words, "--cpus-per-program", "4") == "--cpus-per-program has no meaning without --on"
    assert refused(*words, "--silence", "5m") == "--silence has no meaning without --shard, --on or results at a URL"
    assert refused(*words, "--on", "ray", "--jobs", "2").startswith("--jobs has no meaning with --on")
    assert not (tmp_path / "r").exists()


def test_a_node_that_sees_another_folder_says_so(tmp_path: Path) -> None:
    mark = pieces.marked(Execution(tmp_path, False, None, "", "auto", ()))
    assert mark is not None
    pieces.check_mark(mark, tmp_path)
    Path(mark.path).write_text("of another driver")
    with pytest.raises(BadInput, match=r"does not see the same folder; it has to be on storage that all nodes share$"):
        pieces.check_mark(mark, tmp_path)


def test_without_a_gpu_jax_is_told_so() -> None:
    """Newer Ray lets a task of no GPU see all of them."""
    seen = on_ray.Cluster().options("x")["runtime_env"]["env_vars"]
    assert seen["JAX_PLATFORMS"] == "cpu" and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in seen
    shared = on_ray.Cluster(gpus=0.25).options("x")
    assert shared["num_gpus"] == 0.25 and shared["runtime_env"]["env_vars"]["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.225"


# whole plans


def test_a_plan_on_two_workers(tmp_path: Path, command: Command) -> None:
    """The same bytes as of one process; the driver has not imported JAX; a second time there is nothing to do."""
    plain, there = tmp_path / "plain", tmp_path / "ray"
    words = (*TINY, "--methods", "bc,fql", "--set", "behavior=pretrained")
    assert command.run(*words, "--results", str(plain)).returncode == 0
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", _WITHOUT_JAX, *over((*words, "--on", "ray", "--results", str(there)))],
            cwd=ROOT, env=command.environment | HERE, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "2 of 2 runs finished" in done.stderr and done.stderr.endswith("False\n")
    assert contents(there) == contents(plain)
    assert not left(there)


def test_bad_settings_are_found_by_the_workers(tmp_path: Path, command: Command) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness.run", "--methods", "fqll", "--on", "ray", "--results", str(tmp_path / "r")],
        cwd=ROOT, env=command.environment | HERE, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2 and "error: unknown method 'fqll'; did you mean 'fql'?" in done.stderr


namespaces = pytest.mark.skipif(not possible(), reason="network namespaces cannot be made here")


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """Three nodes of a CPU each; Ray's own folder has a short path, as sockets need."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    with cluster(folder, 3) as made:
        yield made
    shutil.rmtree(folder, ignore_errors=True)


def begin(nodes: Nodes, command: Command, words: tuple[str, ...], results: Path) -> subprocess.Popen[str]:
    given = over((*words, "--on", f"ray:{nodes.address}", "--silence", "20s", "--results", str(results)))
    return nodes.on_head([sys.executable, "-m", "harness.run", *given], command.environment, ROOT)


def until_busy(nodes: Nodes, number: int, process: subprocess.Popen[str]) -> None:
    """Until a worker is at work on a node."""
    over_at = time.monotonic() + 120
    while not nodes.nodes[number].workers():
        assert process.poll() is None and time.monotonic() < over_at, "no work came to that node"
        time.sleep(0.2)
    time.sleep(3.0)  # into its work


@namespaces
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("plan", PLANS)
def test_three_nodes_of_which_one_dies_and_a_worker_and_the_driver(
    nodes: Nodes, command: Command, tmp_path: Path, plan: str
) -> None:
    """Whatever is killed (-9): every run is finished, with the bytes of one process."""
    plain, there = tmp_path / "plain", tmp_path / "ray"
    words, seeds = PLANS[plan]
    assert command.run(*words, "--results", str(plain)).returncode == 0
    first = begin(nodes, command, words, there)
    until_busy(nodes, 1, first)
    os.kill(nodes.nodes[1].workers()[0], signal.SIGKILL)  # a worker
    until_busy(nodes, 2, first)
    nodes.nodes[2].kill()  # a node
    time.sleep(5.0)
    first.send_signal(signal.SIGKILL)  # the driver
    first.communicate()
    second = begin(nodes, command, words, there)
    _, why = second.communicate(timeout=1500)
    assert second.returncode == 0, why
    assert contents(there) == contents(plain)
    records = [json.loads(path.read_text()) for path in there.rglob("run.json")]
    assert len(records) == seeds and {one["status"] for one in records} == {"finished"}


@pytest.mark.slow
def test_results_at_a_url(command: Command, tmp_path: Path) -> None:
    """Each worker has scratch of its own, and what it made goes to the URL and nowhere else."""
    s3.needed()
    plain = tmp_path / "plain"
    words = (*TINY, "--methods", "vgf,fql", "--seeds", "2", "--lanes", "1")
    assert command.run(*words, "--results", str(plain)).returncode == 0
    with s3.served(tmp_path / "log") as (faults, bucket):
        done = subprocess.run(
            [sys.executable, "-m", "harness.run", *over((*words, "--on", "ray", "--results", f"s3://{s3.BUCKET}/ray"))],
            cwd=ROOT, env=command.environment | HERE | s3.environment(faults, tmp_path / "scratch"),
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"2 of 2 runs finished; records in s3://{s3.BUCKET}/ray/" in done.stderr
        assert contents(bucket.copied("ray", tmp_path / "copy")) == contents(plain)


@namespaces
@pytest.mark.slow
def test_two_drivers_of_one_plan_and_one_that_is_stopped(nodes: Nodes, command: Command, tmp_path: Path) -> None:
    """A second driver joins: what the first one's workers have in hand is waited for. Ctrl-C leaves all resumable."""
    plain, there = tmp_path / "plain", tmp_path / "ray"
    words = (*TINY, "--methods", "vgf,fql,td3bc", "--seeds", "2")
    assert command.run(*words, "--results", str(plain)).returncode == 0
    first = begin(nodes, command, words, there)
    until_busy(nodes, 1, first)
    first.send_signal(signal.SIGINT)
    _, why = first.communicate(timeout=300)
    assert first.returncode == 130 and "the same command continues" in why
    both = [begin(nodes, command, words, there) for _ in range(2)]
    ends = [one.communicate(timeout=900)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], ends
    assert contents(there) == contents(plain)


def test_the_longest_way_goes_first(two_workers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one place: a short piece before a long one comes before a piece of middle length."""
    monkeypatch.setattr(on_ray.Driver, "_places", lambda driver: 1)

    @ray.remote(num_cpus=0.5)
    def work(number: int) -> Outcome:
        return Outcome({})

    made = [piece(0)._replace(weight=5.0), piece(1)._replace(weight=1.0), piece(2, 1)._replace(weight=9.0)]
    found, _ = driven(made, lambda one: work.remote(one.number))
    assert [number for number, _ in found] == [1, 2, 0]


def test_a_dead_node_s_claims_are_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each worker is too young to know that another machine's is silent; the driver has watched, and says so."""
    from harness import claims

    dead = claims.Shared(InFolder(tmp_path), silence=0.4)
    assert dead.take(["a"])
    monkeypatch.setattr(claims, "machine", lambda: "another")
    driver = claims.Shared(InFolder(tmp_path), silence=0.4)
    assert not driver.free(["a"]) and driver.abandoned(["a"]) == {}
    time.sleep(0.5)
    assert driver.free(["a"])
    assert not claims.Shared(InFolder(tmp_path), silence=0.4).take(["a"])
    worker = claims.Shared(InFolder(tmp_path), silence=0.4, dead=driver.abandoned(["a"]))
    assert worker.take(["a"])
    assert not driver.free(["a"]) and driver.abandoned(["a"]) == {}  # the new owner lives
