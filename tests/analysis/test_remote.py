"""Records at a URL: the same tables as of a folder; what has not changed is not fetched again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis import plots, stats, tables
from analysis.records.load import load
from analysis.records.mirror import default_out, mirrored, origin, spoken
from core import remote
from core.errors import BadInput
from tests.analysis.command import invoke, refused
from tests.analysis.synthetic import split_all, write_run
from tests.harness import s3

s3.needed()
URL = f"s3://{s3.BUCKET}/group/runs-of-may"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[s3.Faults, s3.Bucket]]:
    with s3.served(tmp_path_factory.mktemp("server") / "log") as running:
        yield running


@pytest.fixture
def server(
    running: tuple[s3.Faults, s3.Bucket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[s3.Faults, s3.Bucket, Path]]:
    """The server, and a folder whose records it holds; the current folder is an empty one."""
    faults, bucket = running
    for name, value in s3.environment(faults, tmp_path / "scratch").items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "records"
    for method, shift in (("vgf", 10.0), ("fql", 0.0)):
        write_run(folder, method, effect=lambda share, knobs, shift=shift: 50.0 + shift + 10.0 * share)
    split_all(folder)
    for path in folder.rglob("*"):
        if path.is_file():
            bucket.write("group/runs-of-may", path.relative_to(folder).as_posix(), path.read_bytes())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield faults, bucket, folder
    faults.now("")


def test_tables_are_those_of_the_folder(server: tuple[s3.Faults, s3.Bucket, Path], tmp_path: Path) -> None:
    _, _, folder = server
    there, here = invoke(tables.app, URL), invoke(tables.app, folder, "--out", tmp_path / "out")
    assert there.exit_code == here.exit_code == 0
    written = sorted(path.name for path in (tmp_path / "out").glob("*.csv"))
    assert written
    for name in written:  # a URL's go to the current folder
        assert (tmp_path / "here" / "runs-of-may" / "tables" / name).read_bytes() == (
            tmp_path / "out" / name
        ).read_bytes()
    assert not (tmp_path / "scratch").joinpath("tables").exists()
    compared = invoke(stats.app, URL, "--compare", "vgf,fql")
    assert compared.exit_code == 0 and "vgf" in compared.stdout


def test_only_what_changed_is_fetched(
    server: tuple[s3.Faults, s3.Bucket, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, bucket, folder = server
    first = mirrored(URL)
    assert origin(first) == URL == spoken(first) and origin(folder) == "" and spoken(folder) == str(folder)
    assert default_out(folder, "x") == folder / "x" and default_out(first, "x") == Path("runs-of-may/x")
    fetched: list[str] = []
    plain = remote.Remote.get

    def noted(self: remote.Remote, name: str, path: Path) -> bool:
        fetched.append(name)
        return plain(self, name, path)

    monkeypatch.setattr(remote.Remote, "get", noted)
    assert mirrored(URL) == first and not fetched
    name = next(name for name in bucket.names("group/runs-of-may") if name.endswith("seed-1/episodes.csv"))
    bucket.write("group/runs-of-may", name, bucket.read("group/runs-of-may", name) + b"")
    longer = next(name for name in bucket.names("group/runs-of-may") if name.endswith("seed-0/train.csv"))
    bucket.write("group/runs-of-may", longer, bucket.read("group/runs-of-may", longer) + b"\n")
    mirrored(URL)
    assert fetched == [longer]  # the other holds what it held
    (first / name).unlink()
    mirrored(URL)
    assert fetched == [longer, name] and (first / name).is_file()
    gone = [one for one in bucket.names("group/runs-of-may") if "/fql/" in one]
    for one in gone:
        bucket.remove("group/runs-of-may", one)
    assert {run.method for run in load(mirrored(URL)).runs} == {"vgf"}


def test_whether_somebody_writes_there_is_not_known(server: tuple[s3.Faults, s3.Bucket, Path]) -> None:
    """No lock can be seen, so a record that says "running" is not said to have been killed."""
    _, bucket, _ = server
    name = next(name for name in bucket.names("group/runs-of-may") if name.endswith("vgf/aaaaaaaaaaaa/seed-0/run.json")
                or ("/vgf/" in name and name.endswith("seed-0/run.json")))  # fmt: skip
    text = bucket.read("group/runs-of-may", name).replace(b'"finished"', b'"running"')
    bucket.write("group/runs-of-may", name, text)
    notes = " ".join(load(mirrored(URL)).notes)
    assert "was running when it last wrote" in notes and "killed" not in notes


def test_what_cannot_be_read_is_one_line(
    server: tuple[s3.Faults, s3.Bucket, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    faults, _, _ = server
    assert "there are no records" in refused(plots.app, f"s3://{s3.BUCKET}/nothing")
    assert "may hold no credentials" in refused(tables.app, "s3://a:b@lab/x")
    monkeypatch.setattr(remote, "PATIENCE_S", 0.2)
    faults.now("refuse")
    with pytest.raises(BadInput, match="connect"):
        mirrored(URL)
    faults.now("")
    shutil.rmtree(tmp_path / "scratch", ignore_errors=True)
    assert mirrored(URL).is_dir()


def test_what_somebody_copied_there_by_hand_says_nothing_of_this_machine(
    server: tuple[s3.Faults, s3.Bucket, Path],
) -> None:
    """Locks and folders' markers among the records; a copy that was broken off leaves nothing behind either."""
    _, bucket, _ = server
    name = next(name for name in bucket.names("group/runs-of-may") if name.endswith("seed-0/run.json"))
    for key in ("runs/", "runs/toy/", name.replace("run.json", "lock"), name.replace("run.json", "owner")):
        bucket.write("group/runs-of-may", key, b"")
    text = bucket.read("group/runs-of-may", name).replace(b'"finished"', b'"running"')
    bucket.write("group/runs-of-may", name, text)
    folder = mirrored(URL)
    notes = " ".join(load(folder).notes)
    assert "was running when it last wrote" in notes and "killed" not in notes
    (folder / "runs" / "toy" / "toy" / "left").mkdir(parents=True)
    (folder / "runs" / "toy" / "toy" / "left" / "run.json").write_text("{}")
    assert not (mirrored(URL) / "runs" / "toy" / "toy" / "left" / "run.json").exists()


def test_keys_that_lead_elsewhere_are_left_alone(server: tuple[s3.Faults, s3.Bucket, Path], tmp_path: Path) -> None:
    _, bucket, _ = server
    bucket.write("group/runs-of-may", "runs/../../../../../evil", b"x")
    mirrored(URL)
    assert not list(tmp_path.rglob("evil"))
