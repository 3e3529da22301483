"""HH transcripts: where they are cut, and which are none."""

from __future__ import annotations

import pytest

from methods.core import BadInput
from tasks.language.core import Preference
from tasks.language.hh.dialogues import NotADialogue, preference, read_rows, split_last_turn

OPENING = "\n\nHuman: How do I dice an onion?\n\nAssistant: With a knife.\n\nHuman: And then?\n\nAssistant:"


def test_a_transcript_is_cut_at_its_last_turn() -> None:
    assert split_last_turn(f"{OPENING} Fry it.\nFor 5 min.") == (OPENING, " Fry it.\nFor 5 min.")
    assert split_last_turn(f"{OPENING} Assistant: is what I am. Human: is what you are.")[0] == OPENING
    assert split_last_turn("Human: Hi\n\nAssistant: Ho") == ("\n\nHuman: Hi\n\nAssistant:", " Ho")


@pytest.mark.parametrize(
    ("transcript", "why"),
    [
        ("Fry an onion.", "no human's turn"), ("\n\nAssistant: Hello!", "no human's turn"), ("", "no human's turn"),
        (f"{OPENING} Fry it.\n\nHuman: Thanks", "the last turn is the human's"),
    ],
)  # fmt: skip
def test_what_is_no_dialogue_is_said(transcript: str, why: str) -> None:
    with pytest.raises(NotADialogue, match=why):
        split_last_turn(transcript)


def test_pairs_share_their_prompt() -> None:
    assert preference(f"{OPENING} Fry it. ", f"{OPENING}  No idea.\n") == Preference(OPENING, " Fry it.", " No idea.")
    other = OPENING.replace("And then?", "What else?")
    with pytest.raises(NotADialogue, match="differ before the last turn"):
        preference(f"{OPENING} Fry it.", f"{other} No idea.")
    longer = f"{OPENING} Fry it.\n\nHuman: How long?\n\nAssistant: 5 min."  # one more turn on one side
    with pytest.raises(NotADialogue, match="differ before the last turn"):
        preference(f"{OPENING} Fry it.", longer)
    with pytest.raises(NotADialogue, match="the same"):
        preference(f"{OPENING} Fry it.", f"{OPENING} Fry it. ")
    with pytest.raises(NotADialogue, match="empty"):
        preference(f"{OPENING} Fry it.", OPENING)


def test_rows_that_are_none_are_counted() -> None:
    good = {"chosen": f"{OPENING} Fry it.", "rejected": f"{OPENING} No."}
    bad = {"chosen": OPENING, "rejected": f"{OPENING} No."}
    kept, left = read_rows([good] * 9 + [bad], "here")
    assert kept == [Preference(OPENING, " Fry it.", " No.")] * 9 and left == {"a response is empty": 1}
    with pytest.raises(BadInput, match=r"here holds no HH dialogues: 2 of 3 rows are none \(a response is empty: 2\)"):
        read_rows([good, bad, bad], "here")


def test_rows_that_were_cut_before() -> None:
    row = {"prompt": f"{OPENING} ", "chosen": "Fry it.", "rejected": " No."}
    assert read_rows([row], "here")[0] == [Preference(OPENING, " Fry it.", " No.")]
    for prompt, why in (
        ("\n\nHuman: Hi", "the last turn is the human's"),
        ("\n\nHuman: I call you my Assistant:", "the last turn is the human's"),
        (f"{OPENING} Yes.", "does not end with 'Assistant:'"),
    ):
        with pytest.raises(BadInput, match=why):
            read_rows([row | {"prompt": prompt}], "here")
    with pytest.raises(BadInput, match="a response holds another turn"):
        read_rows([row | {"rejected": " No.\n\nHuman: Thanks\n\nAssistant: Bye"}], "here")
