"""Anthropic's HH transcripts: where the prompt ends, and whether two of them share one.

A transcript is text with turns that begin "\\n\\nHuman:" and "\\n\\nAssistant:" in turn. `Anthropic/hh-rlhf` has two of
them a row, which differ in the assistant's last turn. The texts of a turn may say "Assistant:" themselves, but not
after a blank line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from core.errors import BadInput
from tasks.language.core import Preference, fault

_TURN = re.compile(r"\n\n(Human|Assistant):")
MOST_LEFT_OUT = 0.2  # of all rows; with more of them the file is something else


class NotADialogue(ValueError):
    """A transcript that does not end in a turn of the assistant's; its message is why, in a few words."""


def split_last_turn(transcript: str) -> tuple[str, str]:
    """(everything up to and including the last "\\n\\nAssistant:", what the assistant says then).

    Raises: NotADialogue.
    """
    text = transcript if transcript.startswith("\n\n") else f"\n\n{transcript.lstrip()}"
    turns = list(_TURN.finditer(text))
    if not turns or turns[0].start() != 0 or turns[0][1] != "Human":
        raise NotADialogue("no human's turn first")
    if turns[-1][1] != "Assistant":
        raise NotADialogue("the last turn is the human's")
    end = turns[-1].end()
    return text[:end], text[end:]


def preference(chosen: str, rejected: str) -> Preference:
    """The row of two transcripts. Raises: NotADialogue, also where they differ before the last turn, or not at all."""
    (prompt, better), (other, worse) = split_last_turn(chosen), split_last_turn(rejected)
    if prompt != other:
        raise NotADialogue("the two differ before the last turn")
    return checked(prompt, better, worse)


def checked(prompt: str, chosen: str, rejected: str) -> Preference:
    """The row as it is used: the prompt ends with "Assistant:", responses begin with one space.

    Raises: NotADialogue for a prompt that ends otherwise, a response that is empty or holds another turn, or twice the
    same.
    """
    opening, said = split_last_turn(prompt.rstrip())
    if said:
        raise NotADialogue("the prompt does not end with 'Assistant:'")
    if _TURN.search(chosen) or _TURN.search(rejected):
        raise NotADialogue("a response holds another turn")
    if reason := fault(chosen, rejected):
        raise NotADialogue(reason)
    return Preference(opening, f" {chosen.strip()}", f" {rejected.strip()}")


def read_rows(rows: Iterable[Mapping[str, str]], where: str) -> tuple[list[Preference], Counter[str]]:
    """Preferences of rows with `chosen` and `rejected`, and a `prompt` where transcripts were cut already; and how many
    rows were left out, by reason.

    Raises: BadInput if those are more than `MOST_LEFT_OUT` of all.
    """
    kept: list[Preference] = []
    left: Counter[str] = Counter()
    for row in rows:
        try:
            cut = "prompt" in row
            kept.append(checked(**row) if cut else preference(row["chosen"], row["rejected"]))
        except NotADialogue as error:
            left[str(error)] += 1
    if left.total() > MOST_LEFT_OUT * (left.total() + len(kept)):
        reason, count = left.most_common(1)[0]
        raise BadInput(f"{where} holds no HH dialogues: {left.total()} of {left.total() + len(kept)} rows are none "
                       f"({reason}: {count})")  # fmt: skip
    return kept, left
