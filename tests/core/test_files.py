"""Files appear whole or not at all, nothing planted is followed, and only plain files are read."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import files
from core.errors import BadInput

ROOT = Path(__file__).parents[2]
_KILLED = """
import os, signal, sys
from pathlib import Path
from core.files import draft, draft_folder
with (draft if sys.argv[2] == "file" else draft_folder)(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# ---- whole or not at all ----


def test_a_file_appears_at_the_end_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "f.txt"
    with files.atomic_file(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole" and names(path.parent) == ["f.txt"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "f.txt"
    path.write_text("old")
    for write in (files.draft, files.draft_folder):
        with pytest.raises(ZeroDivisionError), write(path):
            raise ZeroDivisionError
    assert path.read_text() == "old" and names(tmp_path) == ["f.txt"]


def test_a_folder_appears_at_the_end_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with files.draft_folder(path) as temporary:
        (temporary / "a").write_text("1")
        assert not path.exists()
    assert (path / "a").read_text() == "1" and names(path.parent) == ["folder"]


def test_permissions_are_the_users(tmp_path: Path) -> None:
    for mask in (0o022, 0o027, 0o077):
        before = os.umask(mask)
        try:
            files.write_text(tmp_path / "f", "x")
            with files.draft_folder(tmp_path / str(mask)):
                pass
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o666 & ~mask
        assert stat.S_IMODE((tmp_path / str(mask)).stat().st_mode) == 0o777 & ~mask


def test_a_link_in_its_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (victim := tmp_path / "victim").write_text("precious")
    (link := tmp_path / "f").symlink_to(victim)
    files.write_text(link, "ours")
    assert victim.read_text() == "precious" and not link.is_symlink() and link.read_text() == "ours"


def test_a_link_planted_under_a_drafts_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (victim := tmp_path / "victim").write_text("precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "0" * 2 * count)
    (tmp_path / f".f.{'0' * 16}.tmp").symlink_to(victim)
    with pytest.raises(FileExistsError):
        files.write_text(tmp_path / "f", "ours")
    assert victim.read_text() == "precious"


@given(text=st.text(st.characters(exclude_categories=())))
def test_every_text_can_be_written(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Lone surrogates are escaped, all else is UTF-8."""
    path = tmp_path_factory.getbasetemp() / "any text"
    files.write_text(path, text)
    assert path.read_bytes().decode() == text.encode("utf-8", "backslashreplace").decode()


# ---- what a killed process leaves ----


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_leaves_is_swept(tmp_path: Path, kind: str) -> None:
    subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "f.txt"), kind], cwd=ROOT, check=False)
    (left,) = names(tmp_path)
    assert left.startswith(".f.") and ".tmp" in left
    files.sweep(tmp_path)
    assert names(tmp_path) == [left]  # so young, it might be between its creation and its lock
    files.sweep(tmp_path, alone=True)
    assert names(tmp_path) == []


def test_old_drafts_are_swept_and_those_at_work_and_other_files_stay(tmp_path: Path) -> None:
    others = [".hidden.tmp", "f.0123456789abcdef.tmp", ".f.0123456789abcde.tmp", ".f.0123456789abcdef.tmp.a.b"]
    for name in (*others, ".g.0123456789abcdef.tmp.csv"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, time.time() - 3600))
    (tmp_path / ".h.0123456789abcdef.tmp").symlink_to(tmp_path / "nowhere")
    with files.draft(tmp_path / "f") as temporary:
        os.utime(temporary, (0, time.time() - 3600))
        for alone in (False, True):
            files.sweep(tmp_path, alone=alone)
        assert names(tmp_path) == sorted([*others, temporary.name])
    files.sweep(tmp_path / "none")


# ---- reading ----


def test_digests_are_those_of_every_file_below(tmp_path: Path) -> None:
    for name in ("b", "a/c", "a/d/e"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "empty").mkdir()
    assert files.digests(tmp_path) == {
        name: hashlib.sha256(name.encode()).hexdigest() for name in ("a/c", "a/d/e", "b")
    }


def test_a_deep_tree_is_no_recursion(tmp_path: Path) -> None:
    """1,500 folders, one in the other, whose path is still one."""
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    assert files.digests(tmp_path) == {}
    subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # pytest's own way to remove it recurses


PLANTED: dict[str, Callable[[Path], Any]] = {
    "link": lambda path: path.symlink_to("/etc/hostname"), "loop": lambda path: path.symlink_to(path),
    "folder link": lambda path: path.symlink_to("/etc"), "pipe": os.mkfifo,
}  # fmt: skip


@pytest.mark.parametrize("kind", PLANTED)
def test_what_is_no_plain_file_has_no_digest(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").mkdir()
    PLANTED[kind](tmp_path / "a" / "x")
    with pytest.raises(OSError, match="is neither a file nor a folder") as caught:
        files.digests(tmp_path)
    assert caught.value.filename == str(tmp_path / "a" / "x")


def test_only_plain_files_are_read_and_links_to_them(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "f")
    assert files.read_plain(tmp_path / "link") == b"x" and files.digest(tmp_path / "link") == files.digest(
        tmp_path / "f"
    )
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="is not a plain file"):
            files.read_plain(path)
    for path, kind in ((tmp_path, IsADirectoryError), (tmp_path / "none", FileNotFoundError)):
        with pytest.raises(kind):
            files.digest(path)


def test_home_is_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/some/home")
    assert files.expanded(Path("~/results")) == Path("/some/home/results")
    assert files.expanded(Path("a/~")) == Path("a/~")
    with pytest.raises(BadInput, match="~nobody-here/x: no home directory"):
        files.expanded(Path("~nobody-here/x"))


def test_copies_never_replace_each_other(tmp_path: Path) -> None:
    path, found = tmp_path / "f", []
    for text in ("1", "2", "3"):
        path.write_text(text)
        found.append(files.keep_copy(path).name)
    assert found == ["f.kept", "f.kept-2", "f.kept-3"]
    assert [(tmp_path / name).read_text() for name in found] == ["1", "2", "3"] and path.read_text() == "3"
