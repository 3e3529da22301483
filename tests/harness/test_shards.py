"""Processes that share a folder of results: who has what, and what is left when some of them are killed."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from harness import claim_files, claims, options
from harness.claim_files import InFolder
from harness.claims import Shard, Shared
from methods.core import BadInput
from tests.harness.command import SMALL, TINY, Command, invoke, refused

COMPARED = ("*.safetensors", "episodes.csv", "train.csv", "candidates.npz")


def contents(results: Path) -> dict[str, str]:
    """SHA-256 of everything that may not differ, by its path."""
    found = [path for pattern in COMPARED for path in results.rglob(pattern)]
    return {str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(found)}


def left(results: Path) -> list[Path]:
    """Claims that somebody holds."""
    files = [path for path in (results / "claims").rglob("*") if path.is_file()]
    return [path for path in files if "null" not in path.read_text()]


def gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the machine has been started anew, so that no process number says anything."""
    monkeypatch.setattr(claims, "machine", lambda: "another")


# claims


def test_only_one_has_a_claim(tmp_path: Path) -> None:
    one, other = Shared(InFolder(tmp_path)), Shared(InFolder(tmp_path))
    assert one.free(["a", "b"]) and one.take(["a", "b"])
    assert not other.take(["b", "c"]) and not other.free(["b"])
    assert other.free(["c"])  # nothing is kept of what could not be had whole
    one.release(["b"])
    assert other.take(["b", "c"]) and not one.take(["c"])
    other.release(["b", "c"])
    assert len(left(tmp_path)) == 1


def test_what_a_killed_process_had_is_taken_at_once(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    place = tmp_path / "claims" / "a"
    place.mkdir(parents=True)
    (place / "3").write_text(
        json.dumps({"owner": "x", "machine": claims.machine(), "process": dead.pid, "silence": 1, "beat": 0})
    )
    assert Shared(InFolder(tmp_path)).take(["a"])
    assert [path.name for path in left(tmp_path)] == ["4"]


def test_an_owner_elsewhere_is_gone_after_a_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, other = Shared(InFolder(tmp_path), silence=0.4), Shared(InFolder(tmp_path), silence=0.4)
    assert owner.take(["a"])
    gone(monkeypatch)
    assert not other.take(["a"])  # seen for the first time
    time.sleep(0.5)
    assert other.take(["a"])


def test_a_silent_owner_of_several_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, other = Shared(InFolder(tmp_path), silence=0.6), Shared(InFolder(tmp_path), silence=0.6)
    assert owner.take(["a", "b", "c", "d"])
    gone(monkeypatch)
    assert not other.take(["a", "b", "c", "d"])
    time.sleep(0.7)
    assert other.take(["a", "b", "c", "d"])


def test_a_beating_owner_keeps_its_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone(monkeypatch)
    with Shared(InFolder(tmp_path), silence=0.4) as owner:
        assert owner.take(["a"])
        other = Shared(InFolder(tmp_path), silence=0.4)
        for _ in range(8):
            time.sleep(0.1)
            assert not other.take(["a"])
    assert other.take(["a"])  # let go of at the end


def test_who_was_silent_too_long_hears_of_it(tmp_path: Path) -> None:
    lost: list[str] = []
    owner = Shared(InFolder(tmp_path), silence=0.3, lost=lost.append)
    assert owner.take(["a", "b"])
    newer = tmp_path / "claims" / "a" / "1"
    newer.write_text(json.dumps({"owner": "x", "machine": "another", "process": 1, "silence": 1, "beat": 0}))
    with owner:
        time.sleep(0.3)
        assert lost == ["a"]
    assert newer in left(tmp_path)  # another's is left alone


def test_storage_that_does_not_answer_costs_the_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[str] = []
    owner = Shared(InFolder(tmp_path), silence=0.3, lost=lost.append)
    assert owner.take(["a"])

    def refuse(*given: object, **more: object) -> None:
        raise OSError("no answer")

    with owner:
        monkeypatch.setattr(claim_files, "write_text", refuse)
        time.sleep(0.5)
    assert lost == ["a"]


def test_a_half_written_claim_is_somebody_s(tmp_path: Path) -> None:
    place = tmp_path / "claims" / "a"
    place.mkdir(parents=True)
    (place / "0").write_text('{"owner"')
    assert not Shared(InFolder(tmp_path)).take(["a"])


def test_of_many_at_once_one_has_it(tmp_path: Path) -> None:
    """Threads that begin together, again and again, some of them after others have let go of it."""
    for name in map(str, range(60)):
        at_once, had = threading.Barrier(4), list[Shared]()

        def want(name: str = name, at_once: threading.Barrier = at_once, had: list[Shared] = had) -> None:
            mine = Shared(InFolder(tmp_path))
            at_once.wait()
            if mine.take([name]):
                had.append(mine)

        for _ in range(2):
            threads = [threading.Thread(target=want) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(had) == 1
            had.pop().release([name])


def test_numbers_of_claims_rise(tmp_path: Path) -> None:
    """Who read an old list cannot come to hold a claim beside a newer one."""
    one, other = Shared(InFolder(tmp_path)), Shared(InFolder(tmp_path))
    for turn in (one, other, one):
        assert turn.take(["a"])
        turn.release(["a"])
    files = InFolder(tmp_path)
    assert files.generations("a") == [2]
    assert one.take(["a"]) and files.generations("a") == [3]
    # a slow one; it sees that it is not the newest
    assert not files.create("a", 3, other._text()) and files.create("a", 1, other._text())
    assert files.generations("a")[-1] == 3 and one._mine("a", 3) and not other._mine("a", 1)


def test_nothing_is_trained_on_what_another_has_not_finished(tmp_path: Path) -> None:
    """The behaviour of another process's is there in part; what reads it waits, and is not trained on that."""
    words = (*TINY, "--methods", "fql", "--set", "behavior=pretrained", "--seeds", "1")
    plain, shard = tmp_path / "plain", tmp_path / "shard"
    assert invoke(*words, "--results", str(plain)).exit_code == 0
    shutil.copytree(plain / "artifacts", shard / "artifacts")
    for path in shard.glob("artifacts/*/stage.json"):
        note = json.loads(path.read_text())
        if note["identity"]["stage"] == "behavior":
            name = path.parent.name
            path.write_text(json.dumps({**note, "finished": False}))
        else:
            shutil.rmtree(path.parent)
    other = Shared(InFolder(shard))
    assert other.take([name])
    stopped = invoke(*words, "--shard", "0/2", "--stop-after", "3s", "--results", str(shard))
    assert stopped.exit_code == 130 and "waiting for what other processes have in hand" in stopped.stderr
    assert [path.name for path in (shard / "artifacts").iterdir()] == [name]


def test_a_failed_parent_and_a_killed_shard_leave_no_plan_without_end(tmp_path: Path) -> None:
    """One seed's behaviour failed in another shard after this one began, the other seed's is finished: what is left is
    taken up, and all ends."""
    words = (*TINY, "--methods", "fql", "--set", "behavior=pretrained", "--seeds", "2")
    plain, shard = tmp_path / "plain", tmp_path / "shard"
    assert invoke(*words, "--results", str(plain)).exit_code == 0
    shutil.copytree(plain / "artifacts", shard / "artifacts")
    behaviours = []
    for path in sorted(shard.glob("artifacts/*/stage.json")):
        if json.loads(path.read_text())["identity"]["stage"] == "behavior":
            behaviours.append(path.parent)
        else:
            shutil.rmtree(path.parent)
    (behaviours[0] / "stage.json").unlink()
    shutil.rmtree(behaviours[0] / "state")
    (behaviours[0] / "failed").write_text("2999-01-01T00:00:00+00:00\nbehavior failed: not finite\n")
    done = invoke(*words, "--shard", "0/2", "--stop-after", "60s", "--results", str(shard))
    assert done.exit_code == 1 and "0 of 1 runs finished" in done.stderr
    states = {json.loads(path.read_text())["status"] for path in shard.rglob("run.json")}
    assert states == {"finished", "failed"}


def test_shares_begin_in_different_places() -> None:
    numbers = list(range(7))
    assert Shard(1, 3).preferred(numbers) == [1, 4, 2, 5, 0, 3, 6]
    assert sorted(Shard(2, 3).preferred(numbers)) == numbers and Shard().preferred(numbers) == numbers


# options


@pytest.mark.parametrize("text", ["4/4", "1", "a/b", "-1/2", "0/0", "1/2/3"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(BadInput, match=r"^--shard .*: expected i/n, i from 0 to n - 1"):
        options.shard(text)


@pytest.mark.parametrize(("text", "expected"), [("3h50m", 13800), ("90s", 90), ("1d", 86400), ("45m 30s", 2730)])
def test_times(text: str, expected: float) -> None:
    assert options.seconds("stop_after", text) == expected


@pytest.mark.parametrize("text", ["0s", "3", "h", "3m2h", "1.5h"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(BadInput, match=r"^--stop-after .*: expected days, hours, minutes or seconds"):
        options.seconds("stop_after", text)


def test_shards_delete_nothing(tmp_path: Path) -> None:
    assert refused(*SMALL, "--shard", "0/2", "--fresh", "--results", str(tmp_path)).startswith("--fresh has no meaning")


# processes


def test_a_shard_alone_does_all_of_it(tmp_path: Path) -> None:
    """What is there is what a command without shards leaves, and nothing is claimed at the end."""
    plain, shard = tmp_path / "plain", tmp_path / "shard"
    assert invoke(*SMALL, "--results", str(plain)).exit_code == 0
    done = invoke(*SMALL, "--shard", "1/3", "--results", str(shard))
    assert done.exit_code == 0 and "1 of 1 runs finished" in done.stderr
    assert contents(shard) == contents(plain) and not left(shard)
    again = invoke(*SMALL, "--shard", "0/3", "--results", str(shard))
    assert again.exit_code == 0 and "1 of 1 runs finished" in again.stderr


def test_what_others_have_in_hand_is_waited_for(tmp_path: Path) -> None:
    """A shard that finds everything claimed goes on when it is let go of, and stops in time while it waits."""
    plain, shard = tmp_path / "plain", tmp_path / "shard"
    assert invoke(*SMALL, "--results", str(plain)).exit_code == 0
    names = [path.name for path in (plain / "artifacts").iterdir()]
    other = Shared(InFolder(shard))
    assert other.take(names)
    stopped = invoke(*SMALL, "--shard", "0/2", "--stop-after", "1s", "--results", str(shard))
    assert stopped.exit_code == 130 and "stopped; the same command continues" in stopped.stderr
    assert not contents(shard)
    other.release(names)
    assert invoke(*SMALL, "--shard", "0/2", "--results", str(shard)).exit_code == 0
    assert contents(shard) == contents(plain)


@pytest.mark.slow
def test_four_shards_of_which_two_are_killed(command: Command, tmp_path: Path) -> None:
    """Methods that share stages, seeds that share programs: the same bytes as of one process."""
    words = (*TINY, "--methods", "vgf,best_of_n,fql,qgf,iql,td3bc", "--seeds", "3", "--lanes", "2")
    plain, shared = tmp_path / "plain", tmp_path / "shared"
    assert command.run(*words, "--results", str(plain)).returncode == 0
    draw = random.Random(0)
    for _ in range(2):
        processes = [command.start(*words, "--shard", f"{i}/4", "--results", str(shared)) for i in range(4)]
        for victim in draw.sample(processes, 2):
            time.sleep(draw.uniform(3.0, 8.0))
            victim.send_signal(signal.SIGKILL)
        ends = [process.communicate(timeout=900) for process in processes]
    codes = [process.returncode for process in processes]
    assert codes.count(0) >= 2, ends
    assert contents(shared) == contents(plain)
    records = [json.loads(path.read_text()) for path in shared.rglob("run.json")]
    assert len(records) == 18 and {one["status"] for one in records} == {"finished"}


APART = ("unshare", "--pid", "--fork", "--kill-child")  # process numbers of its own, as another machine has them


@pytest.mark.skipif(
    not shutil.which(APART[0]) or subprocess.run([*APART, "true"], capture_output=True).returncode != 0,
    reason="process namespaces cannot be made here",
)
@pytest.mark.slow
def test_a_machine_that_dies_is_found_by_its_silence(command: Command, tmp_path: Path) -> None:
    """Its process numbers say nothing here; the other goes on from its last checkpoint, with the same bytes."""
    plain, shared = tmp_path / "plain", tmp_path / "shared"
    words = (*SMALL, "--steps", "400")
    assert command.run(*words, "--results", str(plain)).returncode == 0
    words = (*words, "--silence", "8s", "--results", str(shared))
    other = command.start(*words, "--shard", "0/2", prefix=APART)
    over = time.monotonic() + 120
    while not list(shared.rglob("episodes.csv")):  # it has begun what is evaluated
        assert other.poll() is None and time.monotonic() < over
        time.sleep(0.05)
    other.kill()
    other.communicate()
    assert left(shared)
    done = command.run(*words, "--shard", "1/2")
    assert done.returncode == 0 and "waiting for what other processes have in hand" in done.stderr, done.stderr
    assert contents(shared) == contents(plain) and not left(shared)


def test_what_another_shard_failed_of_is_not_tried_again(command: Command, tmp_path: Path) -> None:
    """Two shards, one run that diverges: one of them trains it, both end and say that it failed."""
    words = (*SMALL, "--set", "vgf.learning_rate=1e30")
    invoke(*words, "--results", str(tmp_path / "plain"))
    names = [path.name for path in (tmp_path / "plain" / "artifacts").iterdir()]
    first = Shared(InFolder(tmp_path / "shared"))
    assert first.take(names)
    both = [command.start(*words, "--shard", f"{i}/2", "--results", str(tmp_path / "shared")) for i in range(2)]
    for process in both:
        assert process.stderr and process.stderr.readline().startswith("waiting for what other processes have in hand")
    first.release(names)
    ends = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [1, 1], ends
    assert all("0 of 1 runs finished" in why for why in ends)
    assert sum("not finite" in why for why in ends) == 1, ends
