"""A record of another shape is one line that names the file and the key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import records
from core.errors import BadInput
from core.records import RunRecord, StageRecord
from tests.core.test_strict_json import VALUES

RUN: dict[str, Any] = {
    "schema": 1, "suite": "toy", "task": "toy", "method": "bc", "fingerprint": "0123456789ab", "status": "finished",
    "error": None, "config": {"steps": {"value": 3, "origin": "default"}}, "seeds": [0, 1], "knobs": ["N"],
    "episodes": 3, "evaluation_steps": [10, 20],
    "stages": [{"name": "behavior", "fingerprint": "ab", "steps": 20, "seconds": 1.5}],
    "wall_clock_s": {"train": 1.5},
    "inference": {"knobs": [{"name": "N", "label": "samples", "unit": "-"}],
                  "costs": [{"setting": {"N": 1}, "passes": 11, "gradients": 0.0}]},
}  # fmt: skip
SEED: dict[str, Any] = {"format": 2, "seed": 3} | {key: RUN[key] for key in RUN if key != "seeds"}
STAGE: dict[str, Any] = {"finished": True, "step": 3, "identity": {}, "files": {"3/a": "00"}}


def test_what_the_harness_writes_is_read_as_it_is(tmp_path: Path) -> None:
    for value, shape in ((RUN, RunRecord), (STAGE, StageRecord), (RUN | {"new key": [1]}, RunRecord)):
        (tmp_path / "r.json").write_text(json.dumps(value))
        found: Any = records.read(tmp_path / "r.json", shape)  # type: ignore[arg-type]
        assert found == value


@pytest.mark.parametrize(
    ("value", "seeds"),
    [(RUN, (0, 1)), (SEED, (3,)), ({key: SEED[key] for key in SEED if key != "schema"}, (3,)),
     (RUN | {"seed": 7}, (0, 1)), (SEED | {"seeds": [0, 1]}, (3,))],
)  # fmt: skip
def test_formats_are_told_apart(tmp_path: Path, value: dict[str, Any], seeds: tuple[int, ...]) -> None:
    (tmp_path / "run.json").write_text(json.dumps(value))
    found = records.read_run(tmp_path / "run.json")
    assert found == value and records.seeds_of(found) == seeds


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (SEED | {"format": 3}, "format: Input should be 2 (it is 3)"),
        (RUN | {"format": 1}, "format: Input should be 2 (it is 1)"),
        ({key: SEED[key] for key in SEED if key != "seed"}, "seed: Field required"),
        ({key: SEED[key] for key in SEED if key != "format"}, "seeds: Field required"),
        (SEED | {"seed": [3]}, "seed: Input should be a valid integer (it is [3])"), ([], "Input should be a valid"),
        (SEED | {"schema": 2}, "schema: Input should be 1 (it is 2)"),
    ],
)  # fmt: skip
def test_a_record_of_neither_format_is_one_line(value: Any, line: str) -> None:
    with pytest.raises(BadInput) as caught:
        records.check_run(value, "where")
    assert str(caught.value).startswith(f"where: {line}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"seeds": ["0"]}, "seeds.0: Input should be a valid integer (it is '0')"),
        ({"seeds": [True]}, "seeds.0: Input should be a valid integer (it is True)"),
        ({"episodes": 1.0}, "episodes: Input should be a valid integer"),
        ({"episodes": 2**63}, "episodes: "), ({"episodes": -1}, "episodes: "),
        ({"status": "done"}, "status: Input should be 'running', 'finished', 'interrupted' or 'failed' (it is 'done')"),
        ({"config": []}, "config: Input should be a valid dictionary (it is [])"),
        ({"method": "../x"}, "method: cannot be part of a file's name (it is '../x')"),
        ({"task": ".."}, "task: cannot be part of a file's name"), ({"suite": ""}, "suite: cannot be part"),
        ({"suite": "a\x1b[2J"}, "suite: holds characters that do not print"), ({"fingerprint": "a/b"}, "fingerprint: "),
        ({"knobs": ["../../x"]}, "knobs.0: cannot be part of a file's name"), ({"knobs": ["é" * 101]}, "knobs.0: "),
        ({"wall_clock_s": {"train": float("nan")}}, "wall_clock_s.train: "),
        ({"unit": 3}, "unit: Input should be a valid string"),
        ({"inference": {"knobs": []}}, "inference.costs: Field required"),
        ({"inference": {"knobs": [{"name": "N", "label": 3, "unit": ""}], "costs": []}}, "inference.knobs.0.label: "),
        ({"inference": {"knobs": [], "costs": [{"setting": {}, "passes": -1, "gradients": 0}]}},
         "inference.costs.0.passes: "),
        ({"schema": 2}, "schema: Input should be 1 (it is 2)"), ({"stages": [None]}, "stages.0: "),
        ({"stages": [{"name": "a", "fingerprint": "../..", "steps": 1}]}, "stages.0.fingerprint: cannot be part"),
    ],
)  # fmt: skip
def test_the_key_is_named(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(RUN | changes))
    with pytest.raises(BadInput) as caught:
        records.read(path, RunRecord)
    assert str(caught.value).startswith(f"{path}: {line}") and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["schema", "suite", "method", "fingerprint", "status", "config", "seeds"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(BadInput, match=f"^f: {key}: Field required$"):
        records.check({name: value for name, value in RUN.items() if name != key}, RunRecord, "f")


@pytest.mark.parametrize("key", ["\n", "\x1b[2J", "x" * 5000])
def test_a_strange_key_stays_in_its_line(key: str) -> None:
    with pytest.raises(BadInput) as caught:
        records.check(RUN | {"wall_clock_s": {key: None}}, RunRecord, "f")
    line = str(caught.value)
    assert line.startswith("f: wall_clock_s.") and line.isprintable() and len(line) < 300


@given(value=VALUES, key=st.none() | st.sampled_from(sorted(RUN)))
def test_whatever_stands_there_is_accepted_or_one_line(value: Any, key: str | None) -> None:
    found = value if key is None else RUN | {key: value}
    try:
        assert records.check(found, RunRecord, "where") == found
    except BadInput as error:
        assert str(error).startswith("where: ") and "\n" not in str(error) and len(str(error)) < 400


def test_nested_as_deep_as_json_goes(tmp_path: Path) -> None:
    """Just below where the parser gives up."""
    for depth in range(100, 1200, 50):
        text = json.dumps(RUN).replace('"config": {', '"seeds": ' + "[" * depth + "]" * depth + ', "config": {', 1)
        (tmp_path / "run.json").write_text(text.replace('"seeds": [0, 1], ', ""))
        with pytest.raises(BadInput) as caught:
            records.read(tmp_path / "run.json", RunRecord)
        assert len(str(caught.value)) < 400
