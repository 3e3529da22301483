"""Stored parts are what was stored, or one line says that they are not; whatever the folder is called."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.artifact import Artifact
from harness.checkpoint import StageStore

from core.files import digests
from harness import checkpoint
from methods.core import BadInput

PARTS = {"part": {"w": jnp.arange(2000.0).reshape(2, -1), "count": jnp.array([3, 4])}}
IDENTITY = {"rule": "a", "steps": 7}


def stored(folder: Path) -> Path:
    with StageStore(folder, IDENTITY) as store:
        store.save(7, PARTS, finished=True)
    return folder


def restored(folder: Path) -> Any:
    with StageStore(folder, IDENTITY) as store:
        assert store.finished and store.step == 7
        return store.restore(jax.tree.map(jnp.zeros_like, PARTS))


def line(folder: Path) -> str:
    """What is said instead of giving back the parts."""
    with pytest.raises(BadInput) as caught:
        restored(folder)
    assert "\n" not in str(caught.value) and str(caught.value).endswith("; use --fresh to train anew")
    return str(caught.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished artefact. Not to be changed."""
    return stored(tmp_path_factory.mktemp("artifact") / "whole")


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


# ---- paths ----


@pytest.mark.parametrize(
    "name", ["br [x]", "st*r?", "q'\"", "new\nline", "trailing ", "ünï", "a\\b", "%20#", "~", "é" * 120,
             os.fsdecode(b"\xff")], ids=range(11),
)  # fmt: skip
def test_any_path_works(tmp_path: Path, name: str) -> None:
    folder = stored(tmp_path / name / "f")
    for one, two in zip(jax.tree.leaves(restored(folder)), jax.tree.leaves(PARTS), strict=True):
        np.testing.assert_array_equal(one, two)
    assert os.listdir(tmp_path) == [name] and os.listdir(folder / "state") == ["7"]  # and nothing elsewhere


# ---- what is saved is there ----


def test_a_save_that_leaves_something_out_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Orbax 0.12 does where its pattern finds nothing; the state before stays the one that counts."""
    original = checkpoint.ocp.CheckpointManager.save

    def save(self: Any, step: int, args: Any) -> Any:
        result = original(self, step, args=args)
        (tmp_path / "state" / str(step) / "default" / "manifest.ocdbt").unlink()
        return result

    with StageStore(tmp_path, IDENTITY) as store:
        store.save(3, PARTS)
        monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "save", save)
        with pytest.raises(BadInput, match=r"state/5: was saved, but default/manifest\.ocdbt is not there"):
            store.save(5, PARTS)
        monkeypatch.undo()
    with StageStore(tmp_path, IDENTITY) as store:
        assert store.step == 3 and not store.finished and os.listdir(tmp_path / "state") == ["3"]
        store.restore(PARTS)


def test_a_finished_save_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"part": {**PARTS["part"], "w": PARTS["part"]["w"] + 1}}
    with StageStore(tmp_path, IDENTITY) as store:
        monkeypatch.setattr(checkpoint.ocp.args, "StandardSave", lambda parts: original(other))
        with pytest.raises(BadInput, match="state/7: was saved, but reads as something else"):
            store.save(7, PARTS, finished=True)
    assert not (tmp_path / "stage.json").exists()


original = checkpoint.ocp.args.StandardSave


def test_what_the_library_says_of_a_disk_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {"RESOURCE_EXHAUSTED: Error writing": errno.ENOSPC, "UNKNOWN: odd\nand more": errno.EIO}
    for words, number in cases.items():
        for kind in (ValueError, RuntimeError, KeyError):

            def fail(self: Any, step: int, args: Any, kind: Any = kind, words: str = words) -> None:
                raise kind(words)

            with monkeypatch.context() as patch, StageStore(tmp_path, IDENTITY) as store:
                patch.setattr(checkpoint.ocp.CheckpointManager, "save", fail)
                with pytest.raises(OSError) as caught:
                    store.save(7, PARTS)
            assert caught.value.errno == number and caught.value.filename == str(tmp_path)
            assert "\n" not in str(caught.value.strerror)


def test_a_state_that_was_not_noted_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between a save and its note: the state noted before is gone on from, and the other one goes."""
    with StageStore(tmp_path, IDENTITY) as store:
        store.save(3, PARTS)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Artifact, "write", lambda self, **note: (_ for _ in ()).throw(KeyboardInterrupt))
            store.save(7, PARTS, finished=True)
    assert sorted(os.listdir(tmp_path / "state")) == ["3", "7"]
    with StageStore(tmp_path, IDENTITY) as store:
        assert store.step == 3 and os.listdir(tmp_path / "state") == ["3"]


# ---- damage ----


def test_one_bit_is_noticed_wherever_it_is(whole: Path, tmp_path: Path) -> None:
    """Nothing is restored as other numbers: in each stored file, one bit at a place drawn with a seed."""
    names, draw = list(digests(whole / "state")), random.Random(0)
    assert len(names) > 5 and json.loads((whole / "stage.json").read_text())["files"].keys() == set(names)
    shutil.copytree(whole, tmp_path / "copy")
    for name in names:
        path = tmp_path / "copy" / "state" / name
        before = path.read_bytes()
        damaged = bytearray(before or b"\0")
        place = draw.randrange(len(damaged))
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        assert line(tmp_path / "copy").startswith(f"{path} is damaged")
        path.write_bytes(before)
    restored(tmp_path / "copy")


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


DAMAGE: dict[Callable[[Path], None], str] = {
    remove: "{} is missing", truncate: "{} is damaged (its SHA-256 is not the stored one)",
    pipe: "the stored state cannot be read (is not a plain file: {})",
    loop: "the stored state cannot be read (Too many levels of symbolic links: {})",
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_wrong_with_a_file_is_one_line(copy: Path, damage: Callable[[Path], None]) -> None:
    path = next((copy / "state" / "7" / "default" / "d").iterdir())
    damage(path)
    assert line(copy) == DAMAGE[damage].format(path) + "; use --fresh to train anew"


@pytest.mark.parametrize("text", ["[]", "null", "{", "[" * 10**5, '{"finished": "yes", "step": 7, "identity": {}}'])
def test_a_damaged_note_is_one_line_and_loses_nothing(copy: Path, text: str) -> None:
    (copy / "stage.json").write_text(text)
    before = digests(copy)
    with pytest.raises(BadInput, match=r"stage\.json:.*; use --fresh to train anew$"), StageStore(copy, IDENTITY):
        pytest.fail("opened")
    assert digests(copy) == before


def test_finished_before_its_end_cannot_be(copy: Path) -> None:
    note = json.loads((copy / "stage.json").read_text())
    (copy / "stage.json").write_text(json.dumps(note | {"step": 3}))
    with pytest.raises(BadInput, match="finished at step 3 of 7, which cannot be"):
        restored(copy)


# ---- stored before there were digests ----


def test_older_states_are_read_and_said_to_be_unverified(copy: Path) -> None:
    note = json.loads((copy / "stage.json").read_text())
    del note["files"]
    (copy / "stage.json").write_text(json.dumps(note))
    assert Artifact(copy, IDENTITY).unverified
    restored(copy)
    pipe(next((copy / "state" / "7" / "default" / "d").iterdir()))
    assert "is neither a file nor a folder" in line(copy)


def test_an_older_state_that_is_trained_on_is_verified_from_then_on(tmp_path: Path) -> None:
    with StageStore(tmp_path, IDENTITY) as store:
        store.save(3, PARTS)
    note = json.loads((tmp_path / "stage.json").read_text())
    del note["files"]
    (tmp_path / "stage.json").write_text(json.dumps(note))
    with StageStore(tmp_path, IDENTITY) as store:
        assert store.step == 3 and store.unverified
        store.save(7, store.restore(PARTS), finished=True)
        assert not store.unverified and os.listdir(tmp_path / "state") == ["7"]
    restored(tmp_path)


# ---- language parts ----


def test_language_parts_too(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from harness.artifact import Author
    from harness.parts import PartStore

    from methods.language.core import Part

    node: Any = SimpleNamespace(stage=SimpleNamespace(steps=4, trains=frozenset({"sft"})), identity={"seeds": [0, 1]})
    part = Part({"a": torch.arange(100.0)}, {"mean": 1.5})
    with PartStore(tmp_path / "br [x]\n", node, Author("x")) as store:
        store.pause(1, 2, part, 1.0)
        store.keep(0, {"sft": part}, 1.0)
    assert torch.equal(store.read("sft", 0).tensors["a"], part.tensors["a"]) and not store.unverified
    unfinished = store.state / "unfinished-1-2.safetensors"
    for path, read in ((store.path("sft", 0), lambda: store.read("sft", 0)), (unfinished, lambda: store.paused(1))):
        before = path.read_bytes()
        for damage in DAMAGE:
            damage(path)
            with pytest.raises(BadInput) as caught:
                read()
            assert str(caught.value) == DAMAGE[damage].format(path) + "; use --fresh to train anew"
            path.unlink(missing_ok=True)
            path.write_bytes(before)
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(BadInput, match="is damaged"):
            read()
        path.write_bytes(before)
    (store.folder / "train.csv").write_text("seed,step,loss\nx,2,0.5\n")
    with pytest.raises(BadInput, match=r"train\.csv:2: seed 'x' is no whole number"):
        store.log()


def test_older_language_parts_are_read_and_only_as_safetensors(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from harness.artifact import Author
    from harness.parts import PartStore, read_part, write_part

    from methods.language.core import Part

    node: Any = SimpleNamespace(stage=SimpleNamespace(steps=4, trains=frozenset({"sft"})), identity={"seeds": [0]})
    store = PartStore(tmp_path, node, Author("x"))
    write_part(store.state / "unfinished-0.safetensors", Part({"a": torch.ones(3)}, {"step": 2}))
    note = {"finished": False, "step": 4, "identity": node.identity}
    (tmp_path / "stage.json").write_text(json.dumps(note))
    with store:
        assert store.unverified and not store.has(0)
        found = store.paused(0)
        assert found and found[0] == 2
        store.keep(0, {"sft": found[1]}, 1.0)
        store.finish()
        assert store.finished and not store.unverified and os.listdir(store.state) == ["4"]
    path = tmp_path / "x.safetensors"
    for data in (b"", b"\0" * 7, b"\xff" * 20, b"\x02\0\0\0\0\0\0\0{}"[:9], b"\x05\0\0\0\0\0\0\0hello"):
        path.write_bytes(data)
        with pytest.raises(BadInput, match=r"x\.safetensors: the stored part cannot be read \(.*; use --fresh$"):
            read_part(path)
