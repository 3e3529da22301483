"""Which protocol runs are of (`tasks/<suite>/protocols.toml`), and which of them are shown.

Scores under different protocols differ by rewards, chunks, networks and sizes, not by methods alone. Those of one suite
stand side by side only when that is asked for, and then every label says whose is whose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import typer

from analysis.records.files import RecordError
from analysis.records.files import shown as quoted
from analysis.records.runs import PROTOCOLS, Run
from core.options import parts
from core.text import nearest

EVERY = "*"
"""Asks for all there are."""
Asked = Annotated[
    str | None, typer.Option("--protocol", help="Whose runs, where there are several: fql; fql,qam side by side.")
]


def asked(text: str | None) -> tuple[str, ...]:
    """The protocols that the option names; none if it was not given. Raises: BadInput: it is empty."""
    return tuple(parts("--protocol", text, "protocols")) if text is not None else ()


def chosen(runs: Sequence[Run], wanted: Sequence[str]) -> tuple[list[Run], list[str]]:
    """(the runs of the `wanted` protocols, marked where several of a suite are among them; notes). Runs of suites that
    have no names for protocols are always among them.

    Raises: RecordError: a suite has several and none is wanted, or no run is of one that is.
    """
    there = {suite: dict(sorted(Counter(run.protocol for run in runs if run.suite == suite).items()))
             for suite in sorted({run.suite for run in runs})}  # fmt: skip
    known = sorted({name for names in there.values() for name in names if name})
    if unknown := [name for name in wanted if name not in (EVERY, *known)]:
        hint = nearest(unknown[0], known, "") if known else "no run is of a protocol with a name"
        raise RecordError(f"--protocol {quoted(unknown[0], quote=False)}: no run is of it; {hint}")
    marks, notes = dict[tuple[str, str], str](), list[str]()
    for suite, counts in there.items():
        kept = [name for name in counts if not wanted or name in wanted or not name or EVERY in wanted]
        if len(kept) > 1 and not wanted:
            options = ", ".join(f"--protocol {name}" for name in kept)
            raise RecordError(f"{suite} has runs of protocols {', '.join(kept)}, which are compared only when asked "
                              f"for: {options}, or --protocol {','.join(kept)} for all side by side")  # fmt: skip
        marks |= {(suite, name): f" [{name}]" if len(kept) > 1 else "" for name in kept}
        notes += _notes(suite, kept, {name: n for name, n in counts.items() if name not in kept})
    here = [run for run in runs if (run.suite, run.protocol) in marks]
    return [replace(run, mark=mark, label=run.label + mark) for run in here
            for mark in (marks[run.suite, run.protocol],)], notes  # fmt: skip


def _notes(suite: str, kept: Sequence[str], left: Mapping[str, int]) -> list[str]:
    notes = [f"{suite}: {count} run{'s' * (count > 1)} of protocol {name} left out" for name, count in left.items()]
    if len(kept) > 1:
        notes.append(f"{suite}: protocols {' and '.join(kept)} stand side by side as asked for: what sets rows of one "
                     "apart from rows of another is not their methods alone")  # fmt: skip
    return notes


def heading(suite: str, protocols: Sequence[str]) -> str:
    """The suite, and whose rows are shown unless they are all of its default protocol: "ogbench (protocol qam)"."""
    names = list(dict.fromkeys(filter(None, protocols)))
    if names in ([], [PROTOCOLS.get(suite)]):
        return suite
    return f"{suite} (protocol{'s' * (len(names) > 1)} {' and '.join(sorted(names))})"
