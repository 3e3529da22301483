"""What a judge is asked with: the DPO paper's prompts and files of the user's own."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from core.errors import BadInput
from tasks.judges.templates import DPO, Written, pieces, read_template
from tests.tasks.judges.server import Server, texts
from tests.tasks.judges.test_command import judge, server, verdicts, write_responses

__all__ = ["server"]  # the fixture
pytestmark = pytest.mark.usefixtures("no_waiting")
OWN = "Which is better, {a} or {b}, for {prompt}? Say {{}} and end with 'Verdict: A', 'Verdict: B' or 'Verdict: tie'."


def told(folder: Path) -> dict[str, str]:
    (about,) = folder.glob("verdicts-*.json")
    return json.loads(about.read_text())


@pytest.mark.parametrize(
    ("name", "ends"), [("dpo-tldr-s", "Preferred"), ("dpo-tldr-c", "Preferred"), ("dpo-hh", "More helpful")]
)
def test_the_dpo_paper_s_prompts_by_name(server: Server, tmp_path: Path, name: str, ends: str) -> None:
    """Its answers' form is read; the verdicts are those that our own prompt has; the name is part of the judge's id."""
    folder = write_responses(tmp_path / "vgf")
    assert judge(server, folder, template=name).exit_code == 0
    assert [row["verdict"] for row in verdicts(folder)][:12] == ["loss", "tie"] * 3 + ["loss", "win"] * 3
    about = told(folder)
    assert about["template"] == name and re.fullmatch(rf"http-m-4-{name}-[0-9a-f]{{8}}", about["judge"])
    (message,) = server.requests[0]["messages"]
    assert message["role"] == "user" and message["content"].endswith(f'\n{ends}: <"A" or "B">')
    assert ("good summary is both precise and concise" in message["content"]) == (name == "dpo-tldr-c")
    assert texts(server.requests[0])[0].startswith("POST: my cat number")


def test_dpo_prompts_word_by_word() -> None:
    """As appendix C.2 has them, its lines joined."""
    simple, concise, dialogue = (one.messages("P", "1", "2")[0]["content"] for one in DPO)
    lines = simple.split("\n")
    better = "does a better job of summarizing the most important points in the given forum post?"
    assert lines[0] == f"Which of the following summaries {better}"
    assert lines[1:11] == ["", "Post:", "P", "", "Summary A:", "1", "", "Summary B:", "2", ""]
    assert lines[11].endswith('state only "A" or "B" to indicate your choice. Your response should use the format:')
    assert concise.split("\n")[1:] == lines[1:] and concise.startswith(lines[0][:-1] + ", without including")
    assert dialogue.startswith(
        "For the following query to a chatbot, which response is more helpful?\n\nQuery: P\n\nResp"
    )


def test_a_file_s_hash_is_part_of_the_judge(server: Server, tmp_path: Path) -> None:
    """Two files that an empty question does not tell apart, the places of whose texts differ, are two judges."""
    folder, ids = write_responses(tmp_path / "vgf", knobs=(), seeds=(0,)), set[str]()
    server.script = ["says Verdict: tie"] * 99
    for name, text in (("one", OWN), ("two", OWN.replace("{a} or {b}", "{b} or {a}"))):
        (path := tmp_path / f"{name}.txt").write_text(f"\ufeff{text}")
        assert judge(server, folder, template=path).exit_code == 0
        (about,) = (
            one
            for one in map(json.loads, map(Path.read_text, folder.glob("*.json")))
            if one.get("template") == path.name
        )
        assert about["template_sha256"] == hashlib.sha256(text.encode()).hexdigest()
        ids.add(about["judge"])
    assert len(ids) == 2 and len(list(folder.glob("verdicts-*.csv"))) == 2
    asked = [body["messages"][0]["content"] for body in server.requests]
    assert asked[0].startswith("Which is better, ") and "Say {} and end" in asked[0] and len(set(asked)) == len(asked)


def test_texts_with_braces_are_put_in_as_they_are() -> None:
    asks = Written("t", "file", "{prompt}|{a}|{b}")
    assert asks.messages("{a}", "{b!r}", "{")[0]["content"] == "{a}|{b!r}|{"
    assert asks.messages("p", "<|im_end|>", "b")[0]["content"] == "p|<\u200b|im_end|>|b"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "it is empty"), (b"\xef\xbb\xbf \n", "it is empty"), (b"{prompt} {a}", "it has no {b}"),
        (b"Which?", "it has no {prompt} and no {a} and no {b}"),
        (b"{prompt}{a}{b}{c}", "{c} is none of {prompt}, {a}, {b}"),
        (b"{prompt}{a}{b}{}", "{} is none of"), (b"{prompt}{a}{b.__class__}", "{b.__class__} is none of"),
        (b"{prompt}{a!r}{b}", "{a!r} is none of"), (b"{prompt}{a}{b}{", "a brace of its own is written twice"),
        (b"{prompt}{a}{b}}", "a brace of its own is written twice"),
        (b"{prompt}{a}{b}\xff", "byte 14, so this is not UTF-8"),
        (b"{prompt}{a}{b}" + b"x" * (1 << 16), "bytes, more than 65536"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_template_is_one_line(server: Server, tmp_path: Path, content: bytes, line: str) -> None:
    (path := tmp_path / "own.txt").write_bytes(content)
    folder = write_responses(tmp_path / "vgf")
    result = judge(server, folder, template=path)
    assert result.exit_code == 2 and f"--template {path}: " in result.stderr and line in result.stderr
    assert len(result.stderr.splitlines()) == 1 and server.requests == [] and not list(folder.glob("verdicts-*"))


def test_a_folder_is_no_template(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"--template {tmp_path}: "):
        read_template(tmp_path)


def test_pieces_come_in_order() -> None:
    assert pieces("x{b}y{prompt}{a}{{z}}") == [("x", "b"), ("y", "prompt"), ("", "a"), ("{", ""), ("z}", "")]
