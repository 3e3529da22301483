"""Stored parts are what was stored, or one line says that they are not; whatever the folder is called."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import SafetensorError

from core.files import digests
from harness import store
from harness.arrays import ArrayFormat, fitted, single, stacked
from harness.store import Artifact, Author, Format, LaneStore
from methods.core import BadInput

PARTS = {"part": {"w": jnp.arange(2000.0).reshape(2, -1), "count": jnp.array([3, 4]), "one": jnp.float32(0.5)}}
IDENTITY = {"rule": "a", "steps": 7, "reads": {}}
STATE = "7.safetensors"


def lane(folder: Path, form: Format | None = None, **identity: Any) -> LaneStore:
    return LaneStore(folder, {**IDENTITY, **identity}, form or ArrayFormat(), Author("a run"))


def stored(folder: Path) -> Path:
    lane(folder).save(7, PARTS, finished=True, seconds=1.25, batch=["f", "g"])
    return folder


def loaded(folder: Path) -> Any:
    there = lane(folder)
    assert there.finished and there.current == 7
    return fitted(there.load(), PARTS, str(folder))


def line(folder: Path) -> str:
    """What is said instead of giving back the parts."""
    with pytest.raises(BadInput) as caught:
        lane(folder).load()
    assert "\n" not in str(caught.value) and str(caught.value).endswith("; use --fresh to train anew")
    return str(caught.value)


def assert_equal(one: Any, other: Any) -> None:
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert left.dtype == right.dtype and left.shape == right.shape
        np.testing.assert_array_equal(left, right)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished lane. Not to be changed."""
    return stored(tmp_path_factory.mktemp("lane") / "whole")


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
    assert_equal(loaded(folder), PARTS)
    assert os.listdir(tmp_path) == [name] and os.listdir(folder / "state") == [STATE]  # and nothing elsewhere


# ---- what is saved is there ----


def test_states_replace_each_other_once_pruned(tmp_path: Path) -> None:
    there = lane(tmp_path)
    assert not there.finished and there.current is None and there.steps == [] and there.batch is None
    for step in (3, 5):
        there.save(step, {"part": {"w": np.full(2, step)}}, seconds=0.5, batch=["f"])
    assert there.steps == [3, 5] and there.current == 5 and there.batch == ["f"]
    np.testing.assert_array_equal(there.load(3)["part"]["w"], [3, 3])
    there.prune()
    there.save(7, {"part": {"w": np.full(2, 7)}}, finished=True, seconds=0.5, batch=["f"])
    there.prune()
    assert os.listdir(tmp_path / "state") == [STATE] and there.finished
    np.testing.assert_array_equal(there.load()["part"]["w"], [7, 7])
    assert there.provenance("another")["seconds"] == 1.5


def test_going_back_leaves_no_later_state(tmp_path: Path) -> None:
    there = lane(tmp_path)
    for step in (3, 5):
        there.save(step, {"part": {"w": np.full(2, step)}})
    there.go_back(3)
    assert there.steps == [3] and there.current is None and not there.finished
    there.save(5, {"part": {"w": np.full(2, 55)}})
    assert there.current == 5 and there.load()["part"]["w"].tolist() == [55, 55]


def test_provenance_says_who_trained_it_and_beside_whom(whole: Path) -> None:
    assert lane(whole).provenance("a run")["origin"] == "trained"
    found = lane(whole).provenance("another")
    assert found["origin"] == "shared" and found["seconds"] == 1.25 and found["batch"] == 2


def test_where_it_was_trained_is_noted_and_where_it_was_gone_on_with(tmp_path: Path) -> None:
    def at(device: str, code: str) -> LaneStore:
        return LaneStore(tmp_path, IDENTITY, ArrayFormat(), Author("fql", {"methods/fql.py": code}, {"kind": device}))

    at("cpu", "a").begin(["x"])
    at("h100", "b").save(1, PARTS)  # nothing was saved before: it begins there
    first = at("h100", "b").note
    assert first and first["device"] == {"kind": "h100"} and first["code"] == {"methods/fql.py": "b"}
    assert "device_later" not in first and "code_later" not in first
    at("h200", "b").save(2, PARTS)
    note = at("cpu", "c").note
    assert note and note["device"] == {"kind": "h100"} and note["device_later"] == {"kind": "h200"}
    assert "code_later" not in note
    assert at("cpu", "c").provenance("fql")["device_later"] == {"kind": "h200"}


def test_a_finished_save_is_read_back(tmp_path: Path) -> None:
    class Wrong(ArrayFormat):
        def write(self, path: Path, parts: Mapping[str, Any]) -> None:
            super().write(path, {"part": {**parts["part"], "w": parts["part"]["w"] + 1}})

    with pytest.raises(BadInput, match=r"state/7\.safetensors: was saved, but reads as something else"):
        lane(tmp_path, Wrong()).save(7, PARTS, finished=True)
    assert not (tmp_path / "stage.json").exists()


def test_what_the_library_says_of_a_disk_is_an_os_error(tmp_path: Path) -> None:
    cases = {
        "I/O error: No space left on device (os error 28)": errno.ENOSPC,
        "Permission denied (os error 13)": errno.EACCES,
        "odd\nand more": errno.EIO,
    }
    for words, number in cases.items():

        class Failing(ArrayFormat):
            def write(self, path: Path, parts: Mapping[str, Any], words: str = words) -> None:
                raise SafetensorError(words)

        with pytest.raises(OSError) as caught:
            lane(tmp_path, Failing()).save(7, PARTS)
        assert caught.value.errno == number and caught.value.filename == str(tmp_path / "state" / STATE)
        assert "\n" not in str(caught.value.strerror) and os.listdir(tmp_path / "state") == []


def test_a_state_that_was_not_noted_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between a save and its note: the state noted before is gone on from, and the other one goes."""
    there = lane(tmp_path)
    there.save(3, PARTS)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "write_json", lambda *note: (_ for _ in ()).throw(KeyboardInterrupt))
        there.save(7, PARTS, finished=True)
    assert sorted(os.listdir(tmp_path / "state")) == ["3.safetensors", STATE]
    (tmp_path / "state" / f".7.{'0' * 16}.tmp.safetensors").write_text("a draft of a process that was killed")
    again = lane(tmp_path)
    again.tidy()
    assert again.current == 3 and os.listdir(tmp_path / "state") == ["3.safetensors"]


def test_a_note_without_parts_is_not_finished(copy: Path) -> None:
    shutil.rmtree(copy / "state")
    assert not lane(copy).finished and lane(copy).current is None and lane(copy).steps == []


# ---- what does not match ----


def test_parts_of_another_lane_are_refused(copy: Path) -> None:
    with pytest.raises(BadInput, match=r"rule is 'a' there and 'b' here; use --fresh"):
        lane(copy, rule="b").load()


def test_parts_of_other_shapes_are_refused(whole: Path) -> None:
    part = PARTS["part"]
    cases = {
        r"part w is float32\[2, 1000\], expected float32\[2, 4\]": {"part": {**part, "w": jnp.zeros((2, 4))}},
        r"part v is not there, expected": {"part": {**part, "v": part["w"]}},
        r"part count is int32\[2\], expected float32\[2\]": {"part": {**part, "count": jnp.zeros(2)}},
        r"mine w is not there": {"mine": {"w": part["w"]}},
    }
    for words, like in cases.items():
        with pytest.raises(BadInput, match=f"^here: {words}.*; use --fresh to train anew$"):
            fitted(lane(whole).load(), like, "here")


def test_lanes_are_stacked_and_taken_apart() -> None:
    other = jax.tree.map(lambda leaf: leaf + 1, PARTS)
    both = stacked([PARTS, other])
    assert both["part"]["w"].shape == (2, 2, 1000)
    assert_equal(single(both, 0), PARTS)
    assert_equal(single(both, 1), other)


# ---- damage ----


def test_one_bit_is_noticed_wherever_it_is(copy: Path) -> None:
    """Nothing is read as other numbers: at each of some places drawn with a seed, in header and tensors."""
    path, draw = copy / "state" / STATE, random.Random(0)
    assert list(json.loads((copy / "stage.json").read_text())["files"]) == list(digests(copy / "state")) == [STATE]
    before = path.read_bytes()
    for place in (0, 8, 9, *draw.sample(range(len(before)), 20), len(before) - 1):
        damaged = bytearray(before)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        assert line(copy).startswith(f"{path} is damaged")
    path.write_bytes(before)
    loaded(copy)


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
    pipe: "{}: the stored parts cannot be read (is not a plain file: {})",
    loop: "{}: the stored parts cannot be read (Too many levels of symbolic links: {})",
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_wrong_with_a_file_is_one_line(copy: Path, damage: Callable[[Path], None]) -> None:
    path = copy / "state" / STATE
    damage(path)
    assert line(copy) == DAMAGE[damage].format(path, path) + "; use --fresh to train anew"


def test_a_file_that_is_no_safetensors_is_one_line_though_its_digest_is_right(copy: Path) -> None:
    path, note = copy / "state" / STATE, json.loads((copy / "stage.json").read_text())
    for data in (b"", b"\0" * 7, b"\xff" * 20, b"\x02\0\0\0\0\0\0\0{}"[:9], b"\x05\0\0\0\0\0\0\0hello"):
        path.write_bytes(data)
        (copy / "stage.json").write_text(json.dumps({**note, "files": digests(copy / "state")}))
        assert line(copy).startswith(f"{path}: the stored parts cannot be read (")


@pytest.mark.parametrize("text", ["[]", "null", "{", "[" * 10**5, '{"finished": "yes", "step": 7, "identity": {}}'])
def test_a_damaged_note_is_one_line_and_loses_nothing(copy: Path, text: str) -> None:
    (copy / "stage.json").write_text(text)
    before = digests(copy)
    for use in (lambda: lane(copy).tidy(), lambda: lane(copy).finished, lambda: lane(copy).load()):
        with pytest.raises(BadInput, match=r"stage\.json:.*; use --fresh to train anew$"):
            use()
    assert digests(copy) == before


def test_finished_before_its_end_cannot_be(copy: Path) -> None:
    note = json.loads((copy / "stage.json").read_text())
    (copy / "stage.json").write_text(json.dumps(note | {"step": 3}))
    with pytest.raises(BadInput, match="finished at step 3 of 7, which cannot be"):
        lane(copy).load()


# ---- language parts ----


def test_language_parts_too(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from harness.tensors import TensorFormat
    from methods.language.core import Part

    folder = tmp_path / "br [x]\n"
    parts = {"sft": Part({"a": torch.arange(100.0), "b": torch.ones(3, dtype=torch.bfloat16)}, {"mean": 1.5}),
             "empty": Part({}, {"step": 2})}  # fmt: skip
    lane(folder, TensorFormat()).save(7, parts, finished=True)
    found = lane(folder, TensorFormat()).load()
    assert found.keys() == parts.keys() and {name: part.about for name, part in found.items()} == {
        "sft": {"mean": 1.5}, "empty": {"step": 2}}  # fmt: skip
    for name, tensor in parts["sft"].tensors.items():
        assert torch.equal(found["sft"].tensors[name], tensor) and found["sft"].tensors[name].dtype == tensor.dtype
    assert Artifact(folder, IDENTITY).finished
    path = folder / "state" / STATE
    before = path.read_bytes()
    for damage, words in DAMAGE.items():
        damage(path)
        with pytest.raises(BadInput) as caught:
            lane(folder, TensorFormat()).load()
        assert str(caught.value) == words.format(path, path) + "; use --fresh to train anew"
        path.unlink(missing_ok=True)
        path.write_bytes(before)
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(BadInput, match="is damaged"):
        lane(folder, TensorFormat()).load()
    note = json.loads((folder / "stage.json").read_text())
    for header in ({"sft/a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}, {"__metadata__": {"sft": "[1"}},
                   {"__metadata__": {"sft": "3"}}):  # fmt: skip
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        (folder / "stage.json").write_text(json.dumps({**note, "files": digests(folder / "state")}))
        with pytest.raises(BadInput, match=r"7\.safetensors: the stored parts cannot be read \(.*--fresh"):
            lane(folder, TensorFormat()).load()
