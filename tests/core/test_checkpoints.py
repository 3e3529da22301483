"""What a model is known by, whatever its file and its tensors are called."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from core import checkpoints

SCORE = np.array([[1.0, -2.5, 0.375]], "<f4")
TABLE = np.arange(6, dtype="<f4").reshape(3, 2)


def save(path: Path, dtype: str = "F32", **tensors: np.ndarray) -> Path:
    """A safetensors file; bfloat16 is the upper half of float32, which these numbers fit in."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, value in tensors.items():
        raw = value.tobytes() if dtype != "BF16" else (value.view("<u4") >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": dtype, "shape": [*value.shape], "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path.parent


def test_names_order_shards_and_bfloat16_do_not_change_what_the_tensors_are(tmp_path: Path) -> None:
    (one,) = checkpoints.tensors(save(tmp_path / "a" / "state" / "5.safetensors", score=SCORE, table=TABLE).parent)
    other = save(tmp_path / "b" / "model.safetensors", **{"model.embed": TABLE, "model.score": SCORE})
    assert checkpoints.tensors(other) == [one] and checkpoints.weights(other) != checkpoints.weights(tmp_path / "a")
    assert checkpoints.tensors(save(tmp_path / "c" / "m.safetensors", "BF16", x=TABLE, y=SCORE)) == [one]
    save(tmp_path / "d" / "model-1.safetensors", x=TABLE)
    found = checkpoints.tensors(save(tmp_path / "d" / "model-2.safetensors", x=SCORE))
    assert one in found and len(found) == 3, "each shard's, and those of both"


def test_other_numbers_and_shapes_are_another_model(tmp_path: Path) -> None:
    sets = [{"x": SCORE, "y": TABLE}, {"x": -SCORE, "y": TABLE}, {"x": SCORE, "y": TABLE.reshape(2, 3)}, {"x": SCORE},
            {"x": SCORE, "y": SCORE}]  # fmt: skip
    found = [checkpoints.tensors(save(tmp_path / str(i) / "m.safetensors", **one)) for i, one in enumerate(sets)]
    assert len({one for (one,) in found}) == len(sets)


def test_what_cannot_be_read_is_known_by_its_files_alone(tmp_path: Path) -> None:
    whole = (save(tmp_path / "whole" / "m.safetensors", x=TABLE) / "m.safetensors").read_bytes()
    for i, data in enumerate((b"", b"1", whole[:-1], b"\xff" * 20, (2).to_bytes(8, "little") + b"{}")):
        path = tmp_path / f"{i}" / "m.safetensors"
        path.parent.mkdir()
        path.write_bytes(data)
        assert checkpoints.tensors(path.parent) == [] and len(checkpoints.weights(path.parent)) == 1


def test_the_note_says_which_stage_made_it(tmp_path: Path) -> None:
    assert checkpoints.stage(tmp_path) == ""
    for text, fingerprint in (('{"fingerprint": "abc"}', "abc"), ('{"fingerprint": 3}', ""), ("[]", ""), ("{", "")):
        (tmp_path / "checkpoint.json").write_text(text)
        assert checkpoints.stage(tmp_path) == fingerprint
