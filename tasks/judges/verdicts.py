"""How a judge's answer is read: strictly, since a verdict that is none does more harm than one that is missed."""

from __future__ import annotations

import re
from typing import Literal, cast

from tasks.language.core import UNFINISHED

Choice = Literal["a", "b", "tie"]

LONGEST = 1 << 15  # characters of an answer's end that are read
_DECORATION = " \t\r*_#>\"':.-[](){}`"  # no other sign: "≠ A", "~~A~~" and "A ✗" deny what they decorate
_SIGN = f"[{re.escape(_DECORATION)}]"  # no words, so that a verdict stands on one line
_GAP, _ANY = rf"{_SIGN}{{1,30}}", rf"{_SIGN}{{0,30}}"  # bounded, lest a long row of them takes for ever
_KIND = rf"(?i:(?:summary|response|answer|reply|assistant|option|text){_GAP})?"
_WHICH = rf"{_KIND}(?i:(a|b|(?:a )?tie))"
_LEAD = rf"(?i:(?:(?:so|thus|therefore|hence|my|the|our|overall|final),?{_GAP})*)"
_NOUN = r"(?i:answer|choice|decision|preference|pick|winner|judge?ment|preferred|more helpful)"  # the last two: DPO's
_IS = rf"(?:{_ANY}[:=]{_ANY}|{_GAP}(?i:is){_GAP})(?i:is{_GAP})?"
_SAYS = rf"(?:(?i:verdict)(?:{_IS}|{_GAP})|{_NOUN}{_IS})"

_BEGINS = re.compile(rf"{_ANY}{_LEAD}(?:(?i:verdict)(?![^\W_])|{_NOUN}(?:{_ANY}[:=]|{_GAP}(?i:is)\b))")
_LINE = re.compile(rf"{_ANY}{_LEAD}{_SAYS}{_WHICH}{_ANY}")
_BRACKETS = re.compile(rf"\[\[{_ANY}{_WHICH}{_ANY}\]\]")
_LAST = re.compile(rf"(?:^|[\w,;]){_ANY}{_BRACKETS.pattern}{_ANY}$")
_DENIED = re.compile(r"\b(?:not?|never|neither|nor|cannot|wrong|verdict)\b|n['\u2019]t\b", re.I)
_TAG = re.compile(rf"<(verdict|answer)>\s*{_WHICH}\s*</\1>", re.I)
_BOXED = re.compile(r"(?:\$+|\\[(\[])?\s*\\f?box(?:ed)?\s*\{((?:[^{}\n]|\{[^{}\n]*\})*)\}(?:\s*(?:\$+|\\[)\]]))?")
_LATEX = re.compile(r"\\(?:text|math)?(?:bf|rm|sf|it|tt|normal)?\b")
_IN_BOX = re.compile(rf"{_ANY}{_LEAD}{_SAYS}?{_WHICH}{_ANY}")
_BOLD = re.compile(r"\s*(\*\*|__)(?i:(a|b|tie))\.?\1\.?\s*")
_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)|\A(?:(?!<think).)*</think(?:ing)?>", re.I | re.S)


def read_choice(answer: str) -> Choice | None:
    """Which text an answer prefers; None where it does not say so in a form that is known, or says different things.

    Known forms are a line of its own that says "verdict" (or "answer", "preferred", ... with a colon or "is") and
    nothing but which; at the end of the last line `\\boxed{A}`, `[[A]]` or `<verdict>A</verdict>`; and, where there is
    none of these, a last line that is nothing but `**A**`. A line that begins as a verdict and goes on otherwise leaves
    the answer without one, as does a verdict at which the answer was cut off. What stands between <think> and </think>
    is not read.
    """
    cut = answer.endswith(UNFINISHED)
    text = _THOUGHT.sub("", answer.removesuffix(UNFINISHED))
    if len(text) > LONGEST:
        text = text[-LONGEST:].partition("\n")[2]  # whole lines only
    text = _BOXED.sub(_unboxed, _TAG.sub(r" [[\2]]", text))
    lines = [line for line in text.split("\n") if line.strip(_DECORATION + "$\\")]
    found = set[Choice]()
    for number, line in enumerate(lines, start=1):
        if (begun := _BEGINS.match(line)) and line[begun.end() :].strip(_DECORATION):  # else a heading at most
            last, stated = number == len(lines), _LINE.fullmatch(line)
            if not stated or (_goes_on(line, stated[1]) and (cut or not last)):
                return None
            if cut and last and text.endswith(line):
                return None
            found.add(_name(stated[1]))
    if not found and lines and not cut:
        found = _at_the_end(lines)
    if {_name(one[1]) for one in _BRACKETS.finditer(text)} - found:
        return None
    return found.pop() if len(found) == 1 else None


def _goes_on(line: str, which: str) -> bool:
    """Whether the lines after a verdict may take it back: "the answer is a", an article, or a quotation."""
    return which == "a" or line.lstrip().startswith(">")


def _at_the_end(lines: list[str]) -> set[Choice]:
    """What the last line says in brackets, or in bold letters, of which all must agree."""
    if in_brackets := _LAST.search(lines[-1]):
        return set() if _DENIED.search(lines[-1]) else {_name(in_brackets[1])}
    bold = [_BOLD.fullmatch(line) for line in lines]
    return {_name(one[2]) for one in bold if one} if bold[-1] else set()


def _unboxed(box: re.Match[str]) -> str:
    """A box around a choice as brackets around it."""
    inside = _IN_BOX.fullmatch(_LATEX.sub(" ", box[1]))
    return f" [[{inside[1]}]]" if inside else box[0]


def _name(which: str) -> Choice:
    return cast(Choice, which.lower() if len(which) == 1 else "tie")
