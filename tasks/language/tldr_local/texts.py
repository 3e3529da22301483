"""Pairs of a description and its one-line summary, read from the machine at hand.

Descriptions of Debian packages have a synopsis, those of RPM a summary, and a docstring's first line sums up what
follows. Of docstrings, those of the standard library and of the packages that this project asks for are read. Nothing
is fetched, and no text is kept but on the user's machine; another machine has other texts.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

DPKG = Path("/var/lib/dpkg/status")
RPM = ("rpm", "-qa", "--qf", r"%{NAME}\x1f%{SUMMARY}\x1f%{DESCRIPTION}\x1e")
PROJECTS = (
    "numpy", "scipy", "pandas", "matplotlib", "torch", "transformers", "jax", "flax", "optax", "gymnasium", "h5py",
    "pydantic", "rich", "typer", "httpx", "fsspec", "fontTools", "PIL", "pyarrow", "datasets", "peft", "accelerate",
)  # fmt: skip  # whose docstrings are read, where they are installed
LONGEST = 240  # characters of a description, which ends with a sentence where one ends in time
WORDS = (4, 14)  # of a summary
FEWEST = 15  # words of a description
_SKIPPED = {"test", "tests", "testing", "_vendor", "site-packages", "idlelib", "lib2to3", "ensurepip", "pydoc_data"}
_SECTION = re.compile(
    r"^\s*(?:[A-Z][A-Za-z ]+:?\s*\n\s*[-=~]{3,}|[A-Z][A-Za-z ]+:\s*$|\.\. |>>> |:param|@|[-*+] |\d+[.)] |```)", re.M
)
_ROLE = re.compile(r":[a-z:]+:`~?([^`<]+?)(?: <[^`]*>)?`")
_MARKS = re.compile(r"[`*]{1,3}|_{2,}")
_PROSE = re.compile(r"[A-Za-z0-9 ,.;:'\"()/\-+!?&%]+")
_SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z])")


class Pair(NamedTuple):
    """A thing's name, what is said of it at length, and in a line."""

    name: str
    text: str
    summary: str
    source: str  # "dpkg", "rpm" or "docstring:<project>"


def collect(step: Callable[[str], None] = lambda source: None) -> tuple[list[Pair], dict[str, int]]:
    """All usable pairs in an order that is the texts' own, none with a text or summary that another has; and how many
    each source gave. `step` is told of each source before it is read."""
    found: list[Pair] = []
    for name, read in _sources():
        step(name)
        found += [pair for raw in read() if (pair := cleaned(raw))]
    kept, texts, summaries = list[Pair](), set[str](), set[str]()
    for pair in sorted(found, key=lambda pair: hashlib.sha256("\n".join(pair[:3]).encode()).digest()):
        if family(pair.text) not in texts and pair.summary.lower() not in summaries:
            texts.add(family(pair.text))
            summaries.add(pair.summary.lower())
            kept.append(pair)
    counts: dict[str, int] = {}
    for pair in kept:
        counts[pair.source] = counts.get(pair.source, 0) + 1
    return kept, dict(sorted(counts.items()))


def family(text: str) -> str:
    """What texts have in common that differ only in their ends, as those of a library and its headers do: the letters
    of their first eight words."""
    return " ".join(re.findall(r"[a-z]+", text.lower())[:8])


def split_of(pair: Pair, shares: Sequence[tuple[str, int]]) -> str:
    """The split of a pair by the hash of its text's family; `shares` in percent."""
    place = int.from_bytes(hashlib.sha256(family(pair.text).encode()).digest()[:4], "big") % 100
    for name, share in shares:
        if place < share:
            return name
        place -= share
    return shares[-1][0]


def cleaned(pair: Pair) -> Pair | None:
    """The pair as prose in single lines; None where too little of it is."""
    summary = prose(pair.summary).rstrip(".!: ")
    text = shortened(prose(_SECTION.split(pair.text, maxsplit=1)[0]))
    few = len(text.split()) < FEWEST or not WORDS[0] <= len(summary.split()) <= WORDS[1]
    odd = any(len("".join(_PROSE.findall(part))) < 0.97 * len(part) for part in (text, summary))
    if few or odd or text.lower().startswith(summary.lower()) or not summary[0].isalpha():
        return None
    return Pair(pair.name, text, summary, pair.source)


def prose(text: str) -> str:
    """In one line, without the marks of reStructuredText, Markdown and Debian's empty lines (" .")."""
    text = re.sub(r"^\s*\.\s*$", "", text, flags=re.M)
    return " ".join(_MARKS.sub("", _ROLE.sub(r"\1", text)).split())


def shortened(text: str) -> str:
    """At most `LONGEST` characters, cut behind a sentence, or else behind a word."""
    if len(text) <= LONGEST:
        return text
    kept = ""
    for sentence in _SENTENCE.split(text):
        if len(kept) + len(sentence) > LONGEST:
            break
        kept = f"{kept} {sentence}".strip()
    return kept if len(kept) >= LONGEST // 3 else text[:LONGEST].rpartition(" ")[0]


def _sources() -> Iterator[tuple[str, Callable[[], Iterable[Pair]]]]:
    if DPKG.exists():
        yield "dpkg", lambda: dpkg(DPKG.read_text(encoding="utf-8", errors="replace"))
    elif shutil.which("rpm"):
        yield "rpm", _rpm
    else:
        yield "packages", _metadata
    yield "docstring:python", lambda: docstrings(Path(sysconfig.get_path("stdlib")), "python")
    for project in PROJECTS:
        if (folder := Path(sysconfig.get_path("purelib")) / project).is_dir():
            yield f"docstring:{project}", partial(docstrings, folder, project)


def dpkg(status: str) -> Iterator[Pair]:
    """Of the text of dpkg's table of packages: synopsis and extended description."""
    for block in status.split("\n\n"):
        name = re.search(r"^Package: (.+)$", block, re.M)
        told = re.search(r"^Description: (.+)\n((?: .*(?:\n|$))+)", block, re.M)
        if name and told:
            yield Pair(name[1], told[2], told[1], "dpkg")


def _rpm() -> Iterator[Pair]:
    told = subprocess.run(RPM, capture_output=True, text=True, errors="replace", timeout=300, check=False).stdout
    for row in told.split("\x1e"):
        if row.count("\x1f") == 2:
            name, summary, text = row.split("\x1f")
            yield Pair(name.strip(), text, summary, "rpm")


def _metadata() -> Iterator[Pair]:
    """Of installed Python packages: summary and the beginning of the long description."""
    for one in importlib.metadata.distributions():
        told = one.metadata.json if one.metadata else {}
        name, summary, text = (str(told.get(key) or "") for key in ("name", "summary", "description"))
        if summary and text:
            yield Pair(name, text[: 4 * LONGEST], summary, "packages")


def docstrings(folder: Path, project: str) -> Iterator[Pair]:
    """Of modules, classes and functions of the Python files below a folder, tests left out; files that cannot be parsed
    have none."""
    for path in sorted(folder.rglob("*.py")):
        if _SKIPPED.isdisjoint(path.relative_to(folder).parts):
            yield from _of_file(path, project)


def _of_file(path: Path, project: str) -> Iterator[Pair]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in other people's strings
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            summary, _, text = (ast.get_docstring(node) or "").partition("\n\n")
            if text:
                yield Pair(getattr(node, "name", path.stem), text, summary, f"docstring:{project}")
