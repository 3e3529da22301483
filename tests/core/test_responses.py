"""responses.jsonl is read alike by the judge, before money is spent, and by the analysis of its verdicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.records.verdict_files import texts
from core.errors import BadInput
from tasks.judges.files import read
from tests.core.test_records import RUN


def line(**changes: Any) -> bytes:
    row = {"seed": 0, "N": 1, "episode": 0, "prompt": "p", "response": "r", "reference": "s"} | changes
    return json.dumps(row).encode() + b"\n"


def written(folder: Path, content: bytes) -> Path:
    (folder / "run.json").write_text(json.dumps(RUN | {"knobs": ["N"]}))
    (folder / "responses.jsonl").write_bytes(content)
    return folder / "responses.jsonl"


def test_both_pass_over_a_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbf" + line() + b" \r\n\n" + line(N=2.5) + line(seed=1))
    found, (table, names, sha256) = read(tmp_path), texts(path, ("N",))
    assert [row["N"] for row in found.rows] == table["setting"].str.removeprefix("N=").astype(float).tolist()
    assert len(found.rows) == 3 and list(names) == [0] and found.sha256 == sha256


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (line() + line(N=True), "2: N is True"), (line(N=1e300), r"1: N is 1e\+300"), (line(N="1"), "1: N is '1'"),
        (line(N=2**63), "1: N is 9223372036854775808"), (line(N=float("nan")), "1: N is nan"),
        (line() + line(N=2, prompt="q"), "2: episode 0 has another prompt than before"),
        (line() + line(N=1.0), "2: another response for the same seed, N, episode"),
        (line() + b"\n\xff\n", "3: invalid start byte, so this is not UTF-8"), (line(seed=0.0), "1: seed: "),
        (line()[:-9], "1: Unterminated string"), (b"[" * 100_000, "1: nested too deeply"),
        (b'{"seed": ' + b"9" * 5000, "1: a number has too many digits"),
    ],
)  # fmt: skip
def test_both_refuse_the_same_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = written(tmp_path, content)
    for reads in (lambda: read(tmp_path), lambda: texts(path, ("N",))):
        with pytest.raises(BadInput, match=rf"^{path}:{said}"):
            reads()


def test_settings_that_verdicts_could_not_tell_apart_are_refused(tmp_path: Path) -> None:
    written(tmp_path, line(N=0.12345678) + line(N=0.123456781))
    with pytest.raises(BadInput, match="the same to seven digits"):
        read(tmp_path)
