"""Whatever is wrong with a stranger's JSON is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import strict_json
from core.errors import BadInput

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=10,
)  # fmt: skip


@given(value=VALUES)
def test_what_was_written_is_read(value: Any) -> None:
    assert strict_json.parse(json.dumps(value), "x") == value


@given(data=st.binary(max_size=40) | st.text(max_size=40))
def test_anything_else_is_one_line(data: str | bytes) -> None:
    try:
        strict_json.parse(data, "where")
    except BadInput as error:
        assert str(error).startswith("where") and "\n" not in str(error)


@pytest.mark.parametrize(
    "data, line",
    [
        (b'{"a": 1,\n}', "f:2: "), (b"", "f:1: Expecting value"), (b"\xff\xfe\xfa", "f: "),
        (b'"\xc3', "f: unexpected end"),
        (b"[" * 100_000, "f: nested too deeply"), (b"9" * 5000, "f: a number has too many digits"),
        (b'{"a":' * 100_000, "f: nested too deeply"),
    ],
)  # fmt: skip
def test_the_line_says_what_and_where(data: bytes, line: str) -> None:
    with pytest.raises(BadInput) as caught:
        strict_json.parse(data, "f")
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


def test_a_file_is_named_and_a_missing_one_is_missing(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text("{")
    with pytest.raises(BadInput, match=r"/f\.json:1: "):
        strict_json.read(tmp_path / "f.json")
    with pytest.raises(FileNotFoundError):
        strict_json.read(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        strict_json.read(tmp_path)
