"""How a judge's answer is read: strictly, since a verdict that is none does more harm than one that is missed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, cast

Choice = Literal["a", "b", "tie"]

LONGEST = 1 << 15  # characters of an answer's end that are read
_SIGN = r"(?:[^\w\n]|_)"  # no words, so that a verdict stands on one line
_GAP, _ANY = rf"{_SIGN}{{1,30}}", rf"{_SIGN}{{0,30}}"  # bounded, lest a long row of them takes for ever
_KIND = rf"(?i:(?:summary|response|answer|reply|assistant|option|text){_GAP})?"
_WHICH = rf"{_KIND}(?i:(a|b|(?:a )?tie))"
_LEAD = rf"(?i:(?:(?:so|thus|therefore|hence|my|the|our|overall|final){_GAP})*)"
_NOUN = r"(?i:answer|choice|decision|preference|pick|winner|judge?ment)"
_SAYS = rf"(?:(?i:verdict{_GAP}(?:is{_GAP})?)|{_NOUN}(?:{_ANY}[:=]{_ANY}|{_GAP}(?i:is){_GAP})(?i:is{_GAP})?)"

_LINE = re.compile(rf"^{_ANY}{_LEAD}{_SAYS}{_WHICH}{_ANY}$", re.M)
_BRACKETS = re.compile(rf"\[\[{_ANY}{_WHICH}{_ANY}\]\]")
_TAG = re.compile(rf"<(?i:verdict|answer)>\s*{_WHICH}\s*</(?i:verdict|answer)>")
_BOXED = re.compile(r"\\f?box(?:ed)?\s*\{((?:[^{}\n]|\{[^{}\n]*\})*)\}")
_LATEX = re.compile(r"\\(?:text|math)?(?:bf|rm|sf|it|tt|normal)?\b")
_IN_BOX = re.compile(rf"{_ANY}{_LEAD}{_SAYS}?{_WHICH}{_ANY}")
_BOLD = re.compile(r"^ *(\*\*|__)(?i:(a|b|tie))\.?\1\.? *$", re.M)
_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)|\A(?:(?!<think).)*</think(?:ing)?>", re.I | re.S)


def read_choice(answer: str) -> Choice | None:
    """Which text an answer prefers; None where it does not say so in a form that is known, or says different things.

    Known forms are a line of its own that says "verdict" (or "answer", "winner", ... with a colon or "is") and nothing
    but which, `\\boxed{A}`, `[[A]]`, `<verdict>A</verdict>`, and, where there is none of these, a last line that is
    nothing but `**A**`. What stands between <think> and </think> is not read.
    """
    text = _THOUGHT.sub("", answer[-LONGEST:])
    found = set(_stated(text))
    if not found:
        lines = list(_BOLD.finditer(text))
        if lines and not text[lines[-1].end() :].strip():
            found = {_name(line[2]) for line in lines}
    return found.pop() if len(found) == 1 else None


def _stated(text: str) -> Iterator[Choice]:
    """Every choice that is stated in a form that could be nothing else."""
    for found in _LINE.finditer(text):
        if found[1] != "a" or not text[found.end() :].strip():  # "the answer is a", and the next line goes on
            yield _name(found[1])
    for form in (_BRACKETS, _TAG):
        yield from (_name(found[1]) for found in form.finditer(text))
    for box in _BOXED.finditer(text):
        if inside := _IN_BOX.fullmatch(_LATEX.sub(" ", box[1])):
            yield _name(inside[1])


def _name(which: str) -> Choice:
    return cast(Choice, which.lower() if len(which) == 1 else "tie")
