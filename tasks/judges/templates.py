"""What a judge can be asked: our own prompts (`prompts.py`), the published ones of the DPO paper, or a file's.

The DPO paper's stand in Rafailov et al. 2023 (arXiv 2305.18290), appendix C.2, which asked gpt-4-0314, with the two
texts in a random order. They offer no tie, and nothing but their own words stands between the texts.
"""

from __future__ import annotations

import hashlib
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from core.errors import BadInput, reason
from core.files import expanded, read_plain
from core.text import printable
from tasks.judges.prompts import TEMPLATES, material, template_of

PLACES = ("prompt", "a", "b")
LARGEST = 1 << 16  # bytes of a template's file
PIECES = list[tuple[str, str]]
"""Each a text and which of PLACES follows it, "" after the last."""


class Asks(Protocol):
    """How a judge is asked."""

    @property
    def name(self) -> str:
        """Short, for a record."""

    @property
    def slug(self) -> str:
        """What stands for it in the judge's id; "" where the hash of an empty question does."""

    @property
    def sha256(self) -> str:
        """Of its text with the places in it, which an empty question does not show; "" where these are always alike."""

    def messages(self, prompt: str, first: str, second: str) -> list[dict[str, str]]:
        """The chat that asks which of the texts, in this order, is better."""


@dataclass(frozen=True)
class Written:
    """A text with {prompt}, {a} and {b} in it, sent as the user's one message. "{{" stands for "{".

    Signs that chat templates act on are broken in what is put in, as in our own prompts; nothing else is done to it.
    """

    name: str
    slug: str
    text: str

    @property
    def sha256(self) -> str:
        """See `Asks.sha256`."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def messages(self, prompt: str, first: str, second: str) -> list[dict[str, str]]:
        """See `Asks.messages`."""
        put = dict(zip(("", *PLACES), ("", *map(material, (prompt, first, second))), strict=True))
        return [{"role": "user", "content": "".join(text + put[place] for text, place in pieces(self.text))}]


def pieces(text: str) -> PIECES:
    """A template's text, parted at its places. Raises: BadInput: it lacks one of PLACES, or has another one."""
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise BadInput(f"{error}; a brace of its own is written twice, {{{{ or }}}}") from None
    known = ", ".join(f"{{{name}}}" for name in PLACES)
    for _, place, form, conversion in parsed:
        shown = f"{{{place}{'!' + conversion if conversion else ''}{':' + form if form else ''}}}"
        if place is not None and shown[1:-1] not in PLACES:
            shown = printable(shown if len(shown) <= 40 else f"{shown[:37]}...")
            raise BadInput(f"{shown} is none of {known}; a brace of its own is written twice, {{{{ or }}}}")
    there = {place for _, place, *_ in parsed}
    if lacking := [f"{{{name}}}" for name in PLACES if name not in there]:
        raise BadInput(f"it has no {' and no '.join(lacking)}")
    return [(before, place or "") for before, place, *_ in parsed]


def read_template(path: Path) -> Written:
    """The template that a file holds. Raises: BadInput: there is none in it, in one line that names the file."""
    try:
        content = read_plain(expanded(path))
    except OSError as error:
        raise BadInput(f"--template {path}: {reason(error)}") from None
    if len(content) > LARGEST:
        raise BadInput(f"--template {path}: {len(content)} bytes, more than {LARGEST}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"--template {path}: {error.reason} at byte {error.start}, so this is not UTF-8") from None
    if not text.strip():
        raise BadInput(f"--template {path}: it is empty")
    try:
        pieces(text)
    except BadInput as error:
        raise BadInput(f"--template {path}: {error}") from None
    return Written(printable(path.name), "file", text)


def template_named(name: str) -> Asks:
    """The template of that name, or in that file. Raises: BadInput: there is neither."""
    if (found := NAMED.get(name)) is not None:
        return found
    path = Path(name)
    if not expanded(path).exists():
        raise BadInput(f"no judge's template {printable(repr(name))}; --template {', '.join(NAMED)} or a file")
    return read_template(path)


def template_for(suite: str) -> Asks:
    """Our own template for a suite's texts. Raises: BadInput: there is none."""
    if (found := template_of(suite)) is None:
        raise BadInput(f"no judge's template {suite!r}; --template {', '.join(NAMED)} or a file")
    return found


_SUMMARIES = """

Post:
{prompt}

Summary A:
{a}

Summary B:
{b}

FIRST provide a one-sentence comparison of the two summaries, explaining which you prefer and why. SECOND, on a new \
line, state only "A" or "B" to indicate your choice. Your response should use the format:
Comparison: <one-sentence comparison and explanation>
Preferred: <"A" or "B">"""

_BETTER = """Which of the following summaries does a better job of summarizing the most important points in the given \
forum post"""
_CONCISE = ", without including unimportant or irrelevant details? A good summary is both precise and concise."

_DIALOGUE = """For the following query to a chatbot, which response is more helpful?

Query: {prompt}

Response A:
{a}

Response B:
{b}

FIRST provide a one-sentence comparison of the two responses and explain which you feel is more helpful. SECOND, on a \
new line, state only "A" or "B" to indicate which response is more helpful. Your response should use the format:
Comparison: <one-sentence comparison and explanation>
More helpful: <"A" or "B">"""

DPO = (
    Written("dpo-tldr-s", "dpo-tldr-s", f"{_BETTER}?{_SUMMARIES}"),
    Written("dpo-tldr-c", "dpo-tldr-c", f"{_BETTER}{_CONCISE}{_SUMMARIES}"),
    Written("dpo-hh", "dpo-hh", _DIALOGUE),
)
"""The DPO paper's: for summaries the simple one (S) and the concise one (C), and that for dialogues."""
NAMED: dict[str, Asks] = {**TEMPLATES, **{one.name: one for one in DPO}}
"""What --template can be called."""
