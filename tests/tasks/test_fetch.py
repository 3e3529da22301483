"""Downloads from hosts that misbehave."""

from __future__ import annotations

import csv
import hashlib
import http.server
import itertools
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tenacity

from methods.core import BadInput
from tasks import fetch
from tasks.data import download, sources
from tasks.ogbench import suite as ogbench
from tasks.ogbench.data import KINDS
from tests.tasks.conftest import command


class Host:
    """A local server that serves `content`, treating one request after the other as `script` says:
    "500", "404", "cut" (half of what it promised), "ignore range", "moved" (to where nothing is), "slow" (for a second
    nothing comes); "serve" once the script is at its end."""

    def __init__(self) -> None:
        host = self
        self.content, self.script, self.etag = b"", [], '"1"'
        self.ranges: list[str | None] = []  # of each request

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                act = host.script.pop(0) if host.script else "serve"
                asked = self.headers["Range"]
                host.ranges.append(asked)
                if self.path == "/nowhere":
                    act = "404"
                if act.isdigit():
                    return self.send_error(int(act))
                if act == "moved":
                    self.send_response(302)
                    self.send_header("Location", "/nowhere")
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                if act == "slow":
                    time.sleep(1.0)
                fits = asked and act != "ignore range" and self.headers["If-Range"] in (None, host.etag)
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if fits else 0
                body = host.content[start:]
                self.send_response(206 if fits else 200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", host.etag)
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if act == "cut" else body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/data.npz"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host()
    np.savez(tmp_path / "original.npz", numbers=np.random.default_rng(0).normal(size=100_000))
    host.content = (tmp_path / "original.npz").read_bytes()
    yield host
    host.server.shutdown()
    host.server.server_close()


def get(*urls: str, path: Path) -> str:
    return download.fetch(urls, path, wait=tenacity.wait_none())


def test_broken_transfers_go_on_where_they_broke(host, tmp_path):
    path, size = tmp_path / "data.npz", len(host.content)
    host.script = ["500", "cut", "cut"]
    assert get(host.url, path=path) == host.url
    assert path.read_bytes() == host.content
    assert host.ranges == [None, None, f"bytes={size // 2}-", f"bytes={size // 2 + (size - size // 2) // 2}-"]
    assert download.had_from(path) == host.url
    assert {file.name for file in tmp_path.glob("data*")} == {"data.npz", "data.npz.url"}


def test_a_later_call_goes_on_too(host, tmp_path):
    path = tmp_path / "data.npz"
    host.script = ["cut", *["500"] * (download.ATTEMPTS - 1)]
    with pytest.raises(download.MissingDownload, match="HTTP 500"):
        get(host.url, path=path)
    assert not path.exists()
    get(host.url, path=path)
    assert path.read_bytes() == host.content
    assert host.ranges[-1] == f"bytes={len(host.content) // 2}-"


@pytest.mark.parametrize("cause", ["the file changed", "the host cannot resume"])
def test_a_part_that_does_not_fit_is_dropped(host, tmp_path, cause):
    path = tmp_path / "data.npz"
    host.script = ["cut", *["500"] * (download.ATTEMPTS - 1)]
    with pytest.raises(download.MissingDownload):
        get(host.url, path=path)
    if cause == "the file changed":
        np.savez(tmp_path / "changed.npz", numbers=np.ones(100_000))
        host.content, host.etag = (tmp_path / "changed.npz").read_bytes(), '"2"'
    else:
        host.script = ["ignore range"]
    get(host.url, path=path)
    assert path.read_bytes() == host.content


def test_the_mirror_is_asked_when_the_host_has_it_not(host, tmp_path):
    path, missing = tmp_path / "data.npz", Host()
    missing.script = ["404"]
    assert get(missing.url, host.url, path=path) == host.url
    assert len(missing.ranges) == 1  # a 404 is final
    missing.server.shutdown()
    missing.server.server_close()


def test_what_is_no_archive_is_refused(host, tmp_path):
    path = tmp_path / "data.npz"
    host.content = b"<html>We are down for maintenance.</html>"
    with pytest.raises(download.MissingDownload, match="not an NPZ file"):
        get(host.url, path=path)
    assert not list(tmp_path.glob("data.npz*"))


def test_unreachable_hosts_are_named_in_one_line(tmp_path):
    with pytest.raises(download.MissingDownload) as caught:
        get("http://127.0.0.1:9/a.npz", "http://localhost:9/a.npz", path=tmp_path / "a.npz")
    line = str(caught.value)
    assert "a.npz" in line and "127.0.0.1" in line and "localhost" in line and "\n" not in line


def test_damage_inside_an_archive_is_found(host, tmp_path):
    path = tmp_path / "original.npz"
    content = bytearray(host.content)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"numbers\.npy fails its checksum"):
        download.check_npz(path)


def test_a_damaged_stream_is_told_and_the_mirror_asked(host, tmp_path):
    """Damage to compressed members shows before any checksum does."""
    original, mirror = tmp_path / "original.npz", Host()
    np.savez_compressed(original, numbers=np.arange(1000))
    mirror.content = original.read_bytes()
    start = mirror.content.index(b"numbers.npy") + len(b"numbers.npy") + 20  # past the entry's extra field
    host.content = mirror.content[:start] + b"\xff" * 8 + mirror.content[start + 8 :]
    assert get(host.url, mirror.url, path=tmp_path / "data.npz") == mirror.url
    original.write_bytes(host.content)
    with pytest.raises(BadInput, match=str(original)):
        download.check_npz(original)
    mirror.server.shutdown()
    mirror.server.server_close()


def test_a_changed_file_is_refused_and_named(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"first")
    first = download.sha256(path)
    assert download.sha256(path) == first == "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e"
    path.write_bytes(b"second")
    with pytest.raises(BadInput, match=r"a\.npz changed since its first use"):
        download.sha256(path)


# ---- what lies where a download goes ----


def test_links_that_lie_in_a_download_s_way_are_not_followed(host, tmp_path):
    """Names of parts are always the same, so that a download goes on: anyone may have been there before."""
    victim, path = tmp_path / "victim", tmp_path / "data.npz"
    victim.write_text("mine")
    for name in ("data.npz.part.url", "data.npz.sha256"):
        (tmp_path / name).symlink_to(victim)
    (tmp_path / "data.npz.part").symlink_to(victim)
    with pytest.raises(BadInput, match=r"cannot write .*data\.npz: Too many levels of symbolic links"):
        get(host.url, path=path)
    (tmp_path / "data.npz.part").unlink()
    get(host.url, path=path)
    assert victim.read_text() == "mine" and path.read_bytes() == host.content


def test_drafts_of_killed_processes_are_swept_and_others_left(host, tmp_path):
    old, young = (tmp_path / f".data.npz.{number:016x}.tmp.npz" for number in (1, 2))
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    get(host.url, path=tmp_path / "data.npz")
    assert not old.exists() and young.exists()


def test_files_have_the_permissions_that_the_user_asks_for(host, tmp_path):
    before = os.umask(0o077)
    try:
        get(host.url, path=tmp_path / "data.npz")
        download.sha256(tmp_path / "data.npz")
        with download.atomic_write(tmp_path / "b") as file:
            file.write(b"b")
    finally:
        os.umask(before)
    for name in ("data.npz", "data.npz.url", "data.npz.sha256", "b"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600, name


def test_notes_that_are_no_text_are_read_past(host, tmp_path):
    path = tmp_path / "data.npz"
    (tmp_path / "data.npz.part").write_bytes(b"some")
    (tmp_path / "data.npz.part.url").write_bytes(b"\xff\xfe\x00")
    get(host.url, path=path)
    (tmp_path / "data.npz.url").write_bytes(b"\xff\n")
    assert download.had_from(path) == "\ufffd"
    (tmp_path / "data.npz.sha256").write_bytes(b"\xff")
    with pytest.raises(BadInput, match="changed since its first use"):
        download.sha256(path)


# ---- tables of sources ----


def source(host: Host, *more: str, **given: Any) -> sources.Source:
    whole = hashlib.sha256(host.content).hexdigest()
    about = {"bytes": len(host.content), "sha256": whole, **given}
    return sources.Source("data", "data.npz", (*more, host.url), licence="MIT", **about)


def had(one: sources.Source, path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(download, "WAIT", tenacity.wait_none())
    return sources.fetch(one, path, download.check_npz)


@pytest.mark.parametrize("how", ["moved to a 404", "cut off at half", "slow", "other bytes", "a page", "longer"])
def test_the_next_source_is_taken(host, tmp_path, how, monkeypatch):
    """Whatever a host does, nothing of it is left; what the next one delivers is whole."""
    first, path = Host(), tmp_path / "data.npz"
    first.content = {"other bytes": b"x" * len(host.content), "a page": b"<html>Moved.</html>",
                     "longer": host.content + b"x"}.get(how, host.content)  # fmt: skip
    first.script = {"moved to a 404": ["moved"], "cut off at half": ["cut", *["500"] * 9], "slow": ["slow"] * 9}.get(
        how, []
    )
    monkeypatch.setattr(download, "TIMEOUT", httpx.Timeout(0.3))
    one = source(host, first.url)
    assert had(one, path, monkeypatch) == host.url == download.had_from(path)
    assert path.read_bytes() == host.content
    assert {file.name for file in tmp_path.glob("data*")} == {"data.npz", "data.npz.url"}
    first.server.shutdown()
    first.server.server_close()


def test_a_wrong_hash_is_refused_by_name(host, tmp_path, monkeypatch):
    path, wrong = tmp_path / "data.npz", "0" * 64
    with pytest.raises(download.MissingDownload, match=rf"data\.npz has SHA-256 [0-9a-f]{{64}}, expected {wrong}"):
        had(source(host, sha256=wrong), path, monkeypatch)
    with pytest.raises(download.MissingDownload, match=rf"data\.npz has {len(host.content)} bytes, expected 3"):
        had(source(host, bytes=3), path, monkeypatch)
    assert not list(tmp_path.glob("data.npz*"))


def test_the_beginning_of_a_hash_is_compared_too(host, tmp_path, monkeypatch, capsys):
    whole = hashlib.sha256(host.content).hexdigest()
    had(source(host, sha256=whole[:12], bytes=None), tmp_path / "data.npz", monkeypatch)
    said = " ".join(capsys.readouterr().err.split())
    assert whole[:12] in said and "tasks.fetch --manifest" in said
    with pytest.raises(download.MissingDownload, match=r"expected a{12}"):
        had(source(host, sha256="a" * 12), tmp_path / "again.npz", monkeypatch)


def test_plain_http_delivers_only_what_is_known(host, tmp_path):
    assert source(host, sha256="").usable == ()
    assert source(host, "https://x/data.npz", sha256="").usable == ("https://x/data.npz",)

    def led(request: httpx.Request) -> httpx.Response:
        if request.url.scheme == "https":
            return httpx.Response(301, headers={"Location": "http://x/data.npz"})
        return httpx.Response(200, stream=httpx.ByteStream(host.content))

    def client() -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(led), follow_redirects=True)

    with pytest.raises(download.MissingDownload, match="leads to plain HTTP"):
        download.fetch(["https://x/data.npz"], tmp_path / "a.npz", client=client(), plain=False)
    assert not (tmp_path / "a.npz").exists()
    download.fetch(["https://x/data.npz"], tmp_path / "a.npz", client=client())
    assert (tmp_path / "a.npz").read_bytes() == host.content


def test_the_tables_name_every_published_file():
    known = {f"{environment}-{kind}-v0" for environment in environments() for kind in kinds_of(environment)}
    assert {one.task for one in ogbench.SOURCES.values()} == known and len(ogbench.SOURCES) == 2 * len(known)
    for name, one in ogbench.SOURCES.items():
        https, http, mirror = one.urls
        assert https.replace("https", "http") == http and http.endswith(f"/{name}") and mirror.endswith(f"/{name}")
    double = ogbench.SOURCES["cube-double-play-v0.npz"]
    assert (double.bytes, double.sha256) == (297_435_656, "a73d1a33d029") and double.usable == double.urls
    assert ogbench.SOURCES["cube-single-play-v0.npz"].usable == ogbench.SOURCES["cube-single-play-v0.npz"].urls[::2]


def environments() -> Iterator[str]:
    """That the patterns of `KINDS` stand for."""
    for pattern in KINDS:
        choices = [part.strip("()").split("|") for part in re.split(r"(?<=\))|(?=\()", pattern) if part]
        yield from map("".join, itertools.product(*choices)) if pattern.startswith("(") else cubes(pattern)


def cubes(pattern: str) -> Iterator[str]:
    found = [f"{name}-{size}" for name in ("humanoidmaze", "antmaze", "antsoccer", "cube", "puzzle")
             for size in ("medium", "large", "giant", "teleport", "arena", "single", "double", "triple", "quadruple",
                          "3x3", "4x4", "4x5", "4x6")]  # fmt: skip
    yield from (name for name in (*found, "scene") if re.fullmatch(pattern, name))


def kinds_of(environment: str) -> set[str]:
    return {kind for pattern, kinds in KINDS.items() if re.fullmatch(pattern, environment) for kind in kinds}


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["file,urls"], ":1: expected the columns task, file, urls, bytes, sha256, licence"),
        ([",".join(sources.COLUMNS), "t,f,,1,,"], ":2: expected a file that stands in no other line, and an address"),
        ([",".join(sources.COLUMNS), "t,f,u,1,,", "t,f,u,1,,"], ":3: expected a file that stands in no other line"),
        ([",".join(sources.COLUMNS), "t,f,u,many,,"], ":2: expected bytes as a whole number"),
        ([",".join(sources.COLUMNS), "t,f,u,1,XYZ,"], ":2: expected bytes as a whole number, and a SHA-256"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_one_line(tmp_path, lines, says):
    (tmp_path / "sources.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(BadInput, match=re.escape(says)):
        sources.read(tmp_path / "sources.csv")


def test_the_manifest_holds_what_is_here(tmp_path, monkeypatch):
    monkeypatch.setenv("OGBENCH_DATA_DIR", str(tmp_path))
    (tmp_path / "scene-play-v0.npz").write_bytes(b"abc")
    done = command(fetch.app, "ogbench", "--manifest")
    table = list(csv.DictReader(done.stdout.splitlines()))
    assert done.exit_code == 0 and len(table) == 1
    assert table[0]["sha256"] == hashlib.sha256(b"abc").hexdigest() and table[0]["bytes"] == "3"
    (tmp_path / "again.csv").write_text(done.stdout)
    assert sources.read(tmp_path / "again.csv").keys() == {"scene-play-v0.npz"}
    refused = command(fetch.app, "toy", "--manifest")
    assert refused.exit_code == 2 and "no files that are downloaded" in refused.stderr


def test_validation_files_are_fetched_when_asked_for(host, tmp_path, monkeypatch):
    """Beside the training file; once, and by no other command."""
    name = "cube-single-play-v0"
    monkeypatch.setenv("OGBENCH_DATA_DIR", str(tmp_path))
    monkeypatch.setitem(ogbench.SOURCES, f"{name}-val.npz", source(host)._replace(task=name, file=f"{name}-val.npz"))
    (tmp_path / f"{name}.npz").write_bytes(host.content)
    words = (fetch.app, "ogbench", "--tasks", f"{name.removesuffix('-v0')}-singletask-task*-v0")
    assert command(*words).exit_code == 0 and not (tmp_path / f"{name}-val.npz").exists()
    for _ in range(2):
        done = command(*words, "--validation")
        assert done.exit_code == 0, done.stderr
        assert (tmp_path / f"{name}-val.npz").read_bytes() == host.content and len(host.ranges) == 1
    assert "2 files" in done.stdout
    refused = command(fetch.app, "d4rl", "--validation")
    assert refused.exit_code == 2 and "--validation: suite d4rl has no files" in refused.stderr
