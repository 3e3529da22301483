"""Results at a URL: against a real S3 server, whose answers are refused, slow and cut off."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from core import remote
from core.remote import Remote, Unreachable, checked_url, is_url
from harness import partial
from harness.claim_files import AtUrl
from harness.claims import Shared
from harness.partial import Partial
from harness.storage import RemoteStorage, opened, place
from methods.core import BadInput
from tests.harness import s3
from tests.harness.command import SMALL, TINY, Command, invoke, refused
from tests.harness.test_shards import contents

s3.needed()


class Server(NamedTuple):
    faults: s3.Faults
    bucket: s3.Bucket
    prefix: str  # of this test
    scratch: Path

    @property
    def url(self) -> str:
        return f"s3://{s3.BUCKET}/{self.prefix}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[s3.Faults, s3.Bucket]]:
    with s3.served(tmp_path_factory.mktemp("server") / "log") as running:
        yield running


@pytest.fixture
def server(
    running: tuple[s3.Faults, s3.Bucket],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[Server]:
    faults, bucket = running
    for name, value in s3.environment(faults, tmp_path / "scratch").items():
        monkeypatch.setenv(name, value)
    yield Server(faults, bucket, request.node.name.replace("[", "-").strip("]"), tmp_path / "scratch")
    faults.now("")


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    return Command(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module")
def whole(command: Command, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of `SMALL`, carried out in a folder."""
    results = tmp_path_factory.mktemp("whole")
    assert command.run(*SMALL, "--results", str(results)).returncode == 0
    return contents(results)


def check(bucket: s3.Bucket, prefix: str) -> int:
    """That everything a note there counts is there and whole; how many notes there are."""
    names = bucket.names(prefix)
    notes = [name for name in names if name.endswith(("stage.json", "run.json"))]
    for name in notes:
        folder, _, kind = name.rpartition("/")
        note = json.loads(bucket.read(prefix, name))
        if kind == "stage.json" and note["step"]:
            state = f"{note['step']}.safetensors"
            assert hashlib.sha256(bucket.read(prefix, f"{folder}/state/{state}")).hexdigest() == note["files"][state]
        if kind == "run.json" and note.get("evaluation_steps"):
            rows = csv.DictReader(io.StringIO(bucket.read(prefix, f"{folder}/episodes.csv").decode()))
            assert {int(row["step"]) for row in rows} >= set(note["evaluation_steps"])
    return len(notes)


# what may be said


def test_urls_are_told_from_folders() -> None:
    assert is_url("s3://lab/x") and is_url("gs://lab/x") and not is_url("results") and not is_url("C:/x")
    assert checked_url("S3://lab/runs//") == "s3://lab/runs"
    assert place("results") == ("", Path("results"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s3://", "expected s3://BUCKET/FOLDER"),
        ("s3://lab/a?versionId=3", "expected s3://BUCKET/FOLDER"),
        ("s3://lab/../other", "expected s3://BUCKET/FOLDER"),
        ("ftp://lab/runs", "ftp://...: expected a folder, or one of s3://, gs://"),
        ("s3:///runs", "expected s3://BUCKET/FOLDER"),
        ("s3://lab", "expected s3://BUCKET/FOLDER"),
        ("s3://lab/runs[1]", "expected s3://BUCKET/FOLDER"),
        ("s3:/lab/runs", "did you mean s3://lab/runs?"),
        ("s3://key:hidden-word@lab/runs", "may hold no credentials"),
    ],
)
def test_what_is_no_place_is_refused(text: str, says: str) -> None:
    said = refused(*SMALL, "--results", text)
    assert says in said and "hidden-word" not in said


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def absent(*given: object, **more: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(BadInput, match=r"what reads s3:// is not installed: pip install .*\[s3\]"):
        Remote("s3://lab/runs")


# single files


def test_one_of_many_creates_a_file(server: Server) -> None:
    files = [Remote(server.url) for _ in range(8)]
    for name in map(str, range(5)):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda number, name=name: files[number].create(name, b"%d" % number), range(8)))
        assert won.count(True) == 1
        assert files[0].read(name) == b"%d" % won.index(True)
        assert files[won.index(True)].create(name, b"%d" % won.index(True))  # its own, whose answer was lost


def test_files_are_copied_and_listed(server: Server, tmp_path: Path) -> None:
    files = Remote(server.url)
    assert files.names() == [] and files.below() == {} and files.read("a/b") is None
    assert not files.get("a/b", tmp_path / "x") and not (tmp_path / "x").exists()
    (tmp_path / "here").write_bytes(b"one")
    files.put(tmp_path / "here", "a/b")
    files.write("a/c/d", b"two")
    assert files.names("a") == ["b", "c"] and list(files.below("a")) == ["b", "c/d"]
    before = files.below("a")["b"]
    files.write("a/b", b"ONE")
    assert files.below("a")["b"] != before and before.size == 3
    assert files.read_all(["a/b", "a/c/d", "a/x"]) == {"a/b": b"ONE", "a/c/d": b"two"}
    assert files.get("a/b", tmp_path / "there") and (tmp_path / "there").read_bytes() == b"ONE"
    files.remove("a/b")
    files.remove("a/b")
    assert files.read("a/b") is None
    with pytest.raises(OSError, match="nowhere"):
        files.put(tmp_path / "nowhere", "a/b")


def test_a_bucket_that_is_not_there(server: Server) -> None:
    for how in ((), ("--dry-run",)):
        said = refused(*SMALL, "--results", "s3://nobody-s/runs", *how)
        assert said.startswith("s3://nobody-s/runs: ") and "does not exist" in said
    assert "is a URL, and folders are adopted" in refused(*SMALL, "--adopt", f"{server.url}/artifacts/x")


def test_a_disk_that_is_full_is_not_the_storage_s_fault(server: Server, tmp_path: Path) -> None:
    files, asked = Remote(server.url), []

    def full(*given: object) -> None:
        asked.append(given)
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))

    files.files.get_file = full
    with pytest.raises(OSError, match="No space") as error:
        files.get("a", tmp_path / "x")
    assert error.value.errno == errno.ENOSPC and len(asked) == 1


def test_a_refusal_for_lack_of_rights_is_not_repeated(server: Server) -> None:
    files, asked = Remote(server.url), []

    def deny(*given: object, **more: object) -> None:
        asked.append(given)
        raise PermissionError("Forbidden, aws_secret_access_key=hidden-word")

    files.files.pipe_file = deny
    with pytest.raises(Unreachable, match="refused") as error:
        files.write("a", b"")
    assert len(asked) == 1 and s3.SECRET not in str(error.value)


def test_storage_that_overwrites_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Remote, "create", lambda self, name, content: self.write(name, content) is None)
    assert "two writers could have the same work there" in refused(*SMALL, "--results", server.url)
    assert server.bucket.names(server.prefix) == []


# folders of lanes and seeds


def lane(storage: RemoteStorage, results: Path, step: int, *, finished: bool = False) -> Path:
    """One that was trained to `step`, as a store would leave it."""
    folder = results / "artifacts" / "abc"
    (folder / "state").mkdir(parents=True, exist_ok=True)
    name = f"{step}.safetensors"
    (folder / "state" / name).write_bytes(b"parts %d" % step)
    sha256 = hashlib.sha256(b"parts %d" % step).hexdigest()
    (folder / "stage.json").write_text(json.dumps({"step": step, "finished": finished, "files": {name: sha256}}))
    (folder / "lock").write_text("")
    storage.publish([folder])
    return folder


def stores(server: Server, tmp_path: Path) -> tuple[RemoteStorage, Path, RemoteStorage, Path]:
    one, other = tmp_path / "one", tmp_path / "other"
    return RemoteStorage(Remote(server.url), one), one, RemoteStorage(Remote(server.url), other), other


def test_a_lane_goes_to_another_machine(server: Server, tmp_path: Path) -> None:
    here, one, there, other = stores(server, tmp_path)
    lane(here, one, 10)
    copy = other / "artifacts" / "abc"
    there.refresh([copy])
    assert (copy / "stage.json").is_file() and partial.states(copy) == {"10.safetensors"}
    assert not (copy / "state").exists()
    with there.in_hand([copy], []):
        assert (copy / "state" / "10.safetensors").read_bytes() == b"parts 10"
        (copy / "state" / "10.safetensors").unlink()
        lane(there, other, 20, finished=True)
    assert server.bucket.names(server.prefix) == ["artifacts/abc/stage.json", "artifacts/abc/state/20.safetensors"]
    assert not list((copy / "state").iterdir())  # of finished lanes a machine keeps nothing
    here.refresh([one / "artifacts" / "abc"])
    assert partial.read(one / "artifacts" / "abc") == Partial(
        hashlib.sha256((copy / "stage.json").read_bytes()).hexdigest(), False, ("20.safetensors",)
    )


def test_what_could_not_be_published_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    here, one, _, _ = stores(server, tmp_path)
    folder = lane(here, one, 10)
    (folder / "stage.json").write_text('{"step": 15}')
    here.refresh([folder])
    assert json.loads((folder / "stage.json").read_text())["step"] == 15
    server.bucket.write(server.prefix, "artifacts/abc/stage.json", b'{"step": 12}')  # another went on with it
    here.refresh([folder])
    assert json.loads((folder / "stage.json").read_text())["step"] == 12


def test_what_was_deleted_there_is_gone_here(server: Server, tmp_path: Path) -> None:
    here, one, there, other = stores(server, tmp_path)
    folder, copy = lane(here, one, 10), other / "artifacts" / "abc"
    there.refresh([copy])
    here.delete([folder])
    assert server.bucket.names(server.prefix) == []
    there.refresh([copy])
    assert not copy.exists()


def test_nothing_is_published_once_a_claim_is_lost(server: Server, tmp_path: Path) -> None:
    """Whenever that is heard of: before the first file, between two, or while one is asked for again."""
    for after in range(3):
        files = Remote(f"{server.url}/{after}")
        one = tmp_path / str(after)
        here, folder, sent = RemoteStorage(files, one), one / "artifacts" / "abc", list[str]()
        here.heed(lambda: False, lambda sent=sent, after=after: len(sent) >= after, lambda: True)
        do = files.files.put_file

        def counted(*given: object, do=do, sent=sent, **more: object) -> None:
            sent.append(str(given))
            if len(sent) == 2:
                raise OSError("once more, please")
            do(*given, **more)

        files.files.put_file = counted
        with here.in_hand([folder]):
            for step in (10, 20):
                (folder / "state").mkdir(parents=True, exist_ok=True)
                (folder / "state" / f"{step}.safetensors").write_bytes(b"x")
            (folder / "stage.json").write_text("{}")
        there = server.bucket.names(f"{server.prefix}/{after}")
        assert "artifacts/abc/stage.json" not in there and len(there) <= after


def test_a_claim_that_is_in_doubt_is_waited_for(server: Server, tmp_path: Path) -> None:
    here, one, _, _ = stores(server, tmp_path)
    sure = [False]
    here.heed(lambda: False, lambda: False, lambda: sure[0])
    folder = one / "artifacts" / "abc"
    with here.in_hand([folder]):
        lane(here, one, 10)
        assert server.bucket.names(server.prefix) == []  # a checkpoint is not waited for
        threading.Timer(0.5, lambda: sure.__setitem__(0, True)).start()
    assert sure[0] and check(server.bucket, server.prefix) == 1


def test_an_owner_is_unsure_after_half_its_silence(server: Server) -> None:
    lost: list[str] = []
    with Shared(AtUrl(Remote(server.url)), silence=2.0, lost=lost.append) as owner:
        assert owner.take(["a"]) and owner.sure()
        time.sleep(1.5)
        assert owner.sure()
        server.faults.now("mute")
        time.sleep(1.6)
        assert not owner.sure()  # whatever the beat is waiting for
        server.faults.now("")


def test_what_was_cleared_away_is_fetched_again(server: Server, tmp_path: Path) -> None:
    """Of temporary folders files go one by one; nothing of that reaches the bucket."""
    here, one, _, _ = stores(server, tmp_path)
    folder = lane(here, one, 10)
    (folder / "train.csv").write_text("step\n10\n")
    here.publish([folder])
    before = server.bucket.names(server.prefix)
    for name in ("train.csv", "state/10.safetensors"):
        (folder / name).unlink()
        with here.in_hand([folder]):
            assert (folder / "train.csv").is_file() and (folder / "state" / "10.safetensors").is_file()
        assert server.bucket.names(server.prefix) == before


def test_a_damaged_part_is_left_for_whoever_loads_it(server: Server, tmp_path: Path) -> None:
    here, one, there, other = stores(server, tmp_path)
    lane(here, one, 10)
    server.bucket.write(server.prefix, "artifacts/abc/state/10.safetensors", b"other")
    copy = other / "artifacts" / "abc"
    with there.in_hand([], [copy]):
        assert (copy / "state" / "10.safetensors").read_bytes() == b"other"
    server.bucket.write(server.prefix, "artifacts/abc/state/10.safetensors", b"parts 10")  # it is put right
    with there.in_hand([], [copy]):
        assert (copy / "state" / "10.safetensors").read_bytes() == b"parts 10"


def test_states_of_several_owners_in_turn_are_all_removed(server: Server, tmp_path: Path) -> None:
    here, one, there, other = stores(server, tmp_path)
    lane(here, one, 10)
    for turn, (storage, folder) in enumerate([(there, other), (here, one), (there, other)]):
        mine = folder / "artifacts" / "abc"
        with storage.in_hand([mine]):
            for state in (mine / "state").iterdir():
                state.unlink()
            lane(storage, folder, 20 + turn)
    assert server.bucket.names(server.prefix) == ["artifacts/abc/stage.json", "artifacts/abc/state/22.safetensors"]


@pytest.mark.parametrize("call", ["put_file", "pipe_file", "rm_file"])
def test_a_note_counts_what_is_there_wherever_it_breaks_off(server: Server, tmp_path: Path, call: str) -> None:
    """A lane and a seed with more: after each number of calls that are done before storage goes away."""
    for done in range(3):
        prefix, one = f"{call}-{done}", tmp_path / str(done)
        here = RemoteStorage(Remote(f"{server.url}/{prefix}", patience=0.1), one)
        folder = lane(here, one, 10)
        trial = one / "runs" / "toy" / "toy" / "vgf" / "f" / "seed-0"
        trial.mkdir(parents=True)
        left, do = [done], getattr(here.files.files, call)

        def broken(*given: object, left: list[int] = left, do=do, **more: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise OSError("cut off")
            return do(*given, **more)

        setattr(here.files.files, call, broken)
        (trial / "episodes.csv").write_text("step\n20\n")
        (trial / "run.json").write_text(json.dumps({"evaluation_steps": [20]}))
        (folder / "state" / "20.safetensors").write_bytes(b"parts 20")
        sha256 = hashlib.sha256(b"parts 20").hexdigest()
        note = {"step": 20, "finished": False, "files": {"20.safetensors": sha256}}
        (folder / "stage.json").write_text(json.dumps(note))
        (folder / "state" / "10.safetensors").unlink()
        calls = {"put_file": 2, "pipe_file": 2, "rm_file": 1}[call]  # of a publication that is not broken off
        if done < calls:
            with pytest.raises(Unreachable):
                here.publish([folder, trial])
        else:
            here.publish([folder, trial])
        notes = check(server.bucket, f"{server.prefix}/{prefix}")
        assert notes == 1 + (call == "rm_file" or done >= calls)


def test_keys_that_lead_elsewhere_are_none_of_ours(server: Server, tmp_path: Path) -> None:
    here, one, there, other = stores(server, tmp_path)
    lane(here, one, 10)
    for key in ("artifacts/abc/../../../../evil", "artifacts/abc/a//b", "artifacts/abc/folder/"):
        server.bucket.write(server.prefix, key, b"x")
    with there.in_hand([], [other / "artifacts" / "abc"]):
        pass
    assert not list(tmp_path.rglob("evil")) and not list(tmp_path.parent.glob("evil"))
    assert set(Remote(server.url).below("artifacts/abc")) == {"stage.json", "state/10.safetensors"}


def test_scratch_is_one_process_s(server: Server) -> None:
    url, folder = place(server.url)
    with opened(url, folder, print) as (one, _), opened(url, folder, print) as (other, _):
        assert one != other and one.parent == other.parent == folder
    with opened(url, folder, print, write=False) as (again, _):
        assert again == one


def test_claims_are_exclusive_there(server: Server) -> None:
    with Shared(AtUrl(Remote(server.url)), silence=3.0) as one, Shared(AtUrl(Remote(server.url)), silence=3.0) as other:
        assert one.take(["a", "b"]) and not other.take(["b", "c"])
        assert other.free(["c"]) and not other.free(["b"])
        one.release(["b"])
        assert other.take(["b", "c"])
        time.sleep(1.2)  # two beats
        assert not one.take(["c"])


def test_claims_are_lost_where_the_storage_does_not_answer(server: Server) -> None:
    lost: list[str] = []
    owner = Shared(AtUrl(Remote(server.url)), silence=1.2, lost=lost.append)
    assert owner.take(["a"])

    def refuse(*given: object, **more: object) -> None:
        raise OSError("no answer")

    with owner:
        owner._brief.files.files.ls = refuse  # type: ignore[attr-defined]
        time.sleep(2.5)
    assert lost == ["a"]


# the command


def test_a_run_there_is_the_run_here(server: Server, whole: dict[str, str], tmp_path: Path) -> None:
    done = invoke(*SMALL, "--results", server.url)
    assert done.exit_code == 0 and f"1 of 1 runs finished; records in {server.url}/" in done.stderr
    assert contents(server.bucket.copied(server.prefix, tmp_path / "copy")) == whole
    assert check(server.bucket, server.prefix) == 6
    for text in (done.stdout, done.stderr):
        assert s3.SECRET not in text
    for name in server.bucket.names(server.prefix):
        assert s3.SECRET.encode() not in server.bucket.read(server.prefix, name)
    for path in server.scratch.rglob("*"):
        assert path.is_dir() or s3.SECRET.encode() not in path.read_bytes()
    again = invoke(*SMALL, "--results", server.url)
    assert again.exit_code == 0 and "finished before" in again.stderr
    dry = invoke(*SMALL, "--results", server.url, "--dry-run")
    assert f"to do: 0 lanes in 0 programs; results: {server.url}/" in dry.stdout


def test_another_machine_goes_on(server: Server, whole: dict[str, str], tmp_path: Path,
                                 monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """With what the first made, of which it has nothing: one more seed reads no part anew that it does not need."""
    assert invoke(*SMALL, "--seeds", "1", "--results", server.url).exit_code == 0
    before = {name: server.bucket.read(server.prefix, name) for name in server.bucket.names(server.prefix)}
    monkeypatch.setenv("VGF_SCRATCH", str(tmp_path / "another"))
    done = invoke(*SMALL, "--seeds", "0-1", "--results", server.url)
    assert done.exit_code == 0 and "seed 0: finished before" in done.stderr, done.stderr
    assert not list((tmp_path / "another").rglob("*.safetensors"))
    kept = {name: content for name, content in before.items() if not name.startswith("claims")}
    assert kept == {name: server.bucket.read(server.prefix, name) for name in kept}
    assert set(contents(server.bucket.copied(server.prefix, tmp_path / "copy"))) == set(whole)


def test_it_is_made_anew_where_that_is_asked(server: Server, whole: dict[str, str], tmp_path: Path) -> None:
    assert invoke(*SMALL, "--results", server.url).exit_code == 0
    name = next(name for name in server.bucket.names(server.prefix) if name.endswith("seed-1/run.json"))
    before = json.loads(server.bucket.read(server.prefix, name))["created"]
    server.bucket.write(server.prefix, name.replace("run.json", "left-over"), b"x")
    time.sleep(1.1)  # records count seconds
    assert invoke(*SMALL, "--fresh", "--results", server.url).exit_code == 0
    assert json.loads(server.bucket.read(server.prefix, name))["created"] > before
    assert name.replace("run.json", "left-over") not in server.bucket.names(server.prefix)
    assert contents(server.bucket.copied(server.prefix, tmp_path / "copy")) == whole


def test_storage_that_does_not_answer_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE_S", 0.5)
    server.faults.now("refuse")
    done = invoke(*SMALL, "--results", server.url)
    assert done.exit_code == 2 and done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[-1].startswith(f"error: {server.url}: ") and "connect" in lines[-1].lower()
    assert all("asking again" in line for line in lines[:-1])


def test_storage_that_goes_away_loses_nothing(
    server: Server, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PATIENCE_S", 0.5)
    thread = threading.Thread(target=_refuse_once, args=(server, "seed-1/run.json"))
    thread.start()
    done = invoke(*SMALL, "--results", server.url, "--silence", "6s")
    thread.join()
    assert done.exit_code == 2 and done.stderr.splitlines()[-1].startswith(f"error: {server.url}: "), done.stderr
    assert "Traceback" not in done.stderr
    server.faults.now("")
    check(server.bucket, server.prefix)
    assert invoke(*SMALL, "--results", server.url, "--silence", "6s").exit_code == 0
    assert contents(server.bucket.copied(server.prefix, tmp_path / "copy")) == whole


def _refuse_once(server: Server, name: str) -> None:
    """As soon as a file of that name is there, nobody is answered any more."""
    over = time.monotonic() + 60
    while time.monotonic() < over:
        if any(one.endswith(name) for one in server.bucket.names(server.prefix)):
            break
        time.sleep(0.01)
    server.faults.now("refuse")


@pytest.mark.parametrize("how", ["some", pytest.param("slow", marks=pytest.mark.slow)])
def test_bad_connections_are_asked_again(
    server: Server, whole: dict[str, str], how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_LONGEST_PAUSE_S", 0.3)
    server.faults.now(how)
    before = server.faults.cuts
    done = invoke(*SMALL, "--results", server.url)
    assert done.exit_code == 0, done.stderr
    server.faults.now("")
    assert (server.faults.cuts > before) == (how == "some")
    assert contents(server.bucket.copied(server.prefix, tmp_path / "copy")) == whole
    check(server.bucket, server.prefix)


@pytest.mark.slow
def test_a_pause_of_the_storage_is_waited_for(
    server: Server, command: Command, whole: dict[str, str], tmp_path: Path
) -> None:
    command.environment |= s3.environment(server.faults, server.scratch)
    process = command.start(*SMALL, "--results", server.url)
    _refuse_once(server, "stage.json")
    time.sleep(25)  # longer than what reads S3 waits by itself
    server.faults.now("")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0 and "asking again" in said, said
    assert contents(server.bucket.copied(server.prefix, tmp_path / "copy")) == whole


@pytest.mark.slow
def test_processes_that_are_killed_lose_nothing(
    server: Server, command: Command, whole: dict[str, str], tmp_path: Path
) -> None:
    """Two that share the work, over bad connections, one after the other killed -9 at random moments."""
    chance = random.Random(1)
    command.environment |= s3.environment(server.faults, server.scratch)
    server.faults.now("some")
    shared = (*SMALL, "--results", server.url)
    for _ in range(4):
        both = [command.start(*shared, "--shard", f"{number}/2") for number in range(2)]
        time.sleep(chance.uniform(4.0, 14.0))
        for one in both:
            one.send_signal(signal.SIGKILL)
            one.communicate()
        check(server.bucket, server.prefix)
    both = [command.start(*shared, "--shard", f"{number}/2") for number in range(2)]
    said = [one.communicate(timeout=600)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert contents(server.bucket.copied(server.prefix, tmp_path / "copy")) == whole
    assert not [name for name in server.bucket.names(server.prefix)
                if name.startswith("claims") and b"null" not in server.bucket.read(server.prefix, name)]  # fmt: skip


@pytest.mark.slow
def test_an_online_phase_goes_on_there(server: Server, command: Command, tmp_path: Path) -> None:
    """Killed within the phase, once its record is there; another machine goes on with what was published."""
    online = (
        *TINY,
        "--methods",
        "fql",
        "--online-steps",
        "400",
        "--online-warmup",
        "20",
        "--online-evaluate-every",
        "50",
    )
    assert command.run(*online, "--results", str(tmp_path / "here")).returncode == 0
    command.environment |= s3.environment(server.faults, server.scratch)
    process = command.start(*online, "--results", server.url, "--silence", "10s")
    over = time.monotonic() + 120
    while not (begun := _online(server)):
        assert process.poll() is None and time.monotonic() < over
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert begun < 800 and check(server.bucket, server.prefix)
    command.environment |= s3.environment(server.faults, tmp_path / "another")
    done = command.run(*online, "--results", server.url)
    assert done.returncode == 0, done.stderr
    assert contents(server.bucket.copied(server.prefix, tmp_path / "copy")).keys() == contents(tmp_path / "here").keys()
    records = [json.loads(server.bucket.read(server.prefix, name)) for name in server.bucket.names(server.prefix)
               if name.endswith("run.json")]  # fmt: skip
    assert {one["status"] for one in records} == {"finished"} and sum(bool(one.get("online")) for one in records) == 2


def _online(server: Server) -> int:
    """Evaluations of online phases that are on record there."""
    names = [name for name in server.bucket.names(server.prefix) if name.endswith("run.json")]
    records = [json.loads(server.bucket.read(server.prefix, name)) for name in names]
    return sum(max(one["evaluation_steps"], default=0) > 40 for one in records if one.get("online"))


@pytest.mark.slow
def test_two_programs_at_a_time_and_what_other_code_made(server: Server, command: Command, tmp_path: Path) -> None:
    """--jobs 2, then --adopt of a part from elsewhere; a damaged part fails its lane alone."""
    words = (*TINY, "--methods", "vgf,fql", "--set", "behavior=pretrained", "--seeds", "2", "--lanes", "1")
    plain = tmp_path / "plain"
    command.environment |= s3.environment(server.faults, server.scratch)
    assert command.run(*words, "--results", str(plain)).returncode == 0
    assert command.run(*words, "--results", server.url, "--jobs", "2").returncode == 0
    assert contents(server.bucket.copied(server.prefix, tmp_path / "copy")) == contents(plain)
    behavior = next(path.parent for path in plain.glob("artifacts/*/stage.json")
                    if json.loads(path.read_text())["identity"]["stage"] == "behavior")  # fmt: skip
    taken = command.run(*words, "--results", f"{server.url}/taken", "--adopt", str(behavior))
    assert taken.returncode == 0, taken.stderr
    note = json.loads(server.bucket.read(server.prefix, f"taken/artifacts/{behavior.name}/stage.json"))
    assert "adopted_from" in note
    state = next(name for name in server.bucket.names(server.prefix)
                 if name.startswith(f"artifacts/{behavior.name}/state/"))  # fmt: skip
    server.bucket.write(server.prefix, state, b"damaged")
    command.environment |= s3.environment(server.faults, tmp_path / "another")
    more = command.run(*words, "--methods", "best_of_n", "--results", server.url)
    assert more.returncode == 1 and "use --fresh to train anew" in more.stderr, more.stderr
    assert "0 of 1 runs finished" in more.stderr and "Traceback" not in more.stderr
