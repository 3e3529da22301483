"""What a command is asked to show: which runs, by which evaluations and settings, under which names.

The same options mean the same in every command; each declares them as `methods: Methods = None` and so on.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from analysis.endpoint import WORDS
from analysis.records.files import RecordError, content, shown
from analysis.records.labels import text_of
from analysis.records.load import Records, load, only
from analysis.records.protocols import Asked, asked
from analysis.records.runs import Run
from analysis.select import PAPER_KNOB, Endpoint, Rule
from analysis.statistics.estimates import INTERVALS
from core import options
from core.text import nearest, printable

__all__ = ["Asked", "Ends", "Intervals", "Methods", "Names", "Query", "Runs", "Select"]

Methods = Annotated[str | None, typer.Option("--methods", help="Which, in that order: vgf,fql. All if unset.")]
Runs = Annotated[
    list[str] | None,
    typer.Option("--run", help="Of several runs of a method on a task: a fingerprint's beginning or KEY=VALUE."),
]
Ends = Annotated[str, typer.Option("--endpoint", help=f"{WORDS} (mean over the steps of the phase).")]
Select = Annotated[
    str | None, typer.Option("--select", help="fixed:1, fixed:w=0.02,N=4, held-out, new-seeds, offline:lcb or oracle.")
]
Intervals = Annotated[str, typer.Option("--interval", help="Of means over seeds: t, bca or percentile.")]
Names = Annotated[
    Path | None, typer.Option("--names", parser=options.path, help="A CSV with rows `vgf,VGF (ours)`: names to show.")
]


@dataclass(frozen=True)
class Query:
    """Which runs are shown and what counts for them."""

    methods: tuple[str, ...] = ()
    """Names of methods ("vgf", "vgf online"), or labels of runs; in the order to show. All if empty."""
    runs: tuple[str, ...] = ()
    """Which run speaks where a task has several of a method: beginnings of fingerprints, or settings as `bank=16`."""
    protocols: tuple[str, ...] = ()
    endpoint: Endpoint = field(default_factory=Endpoint)
    rule: Rule = field(default_factory=Rule)
    ruled: bool = False
    """Whether a rule was asked for: then it alone is shown."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Method or label -> the name to show."""
    interval: str = "t"
    """Of means over seeds: a key of INTERVALS."""

    @classmethod
    def of(
        cls,
        methods: str | None = None,
        runs: Sequence[str] | None = None,
        protocol: str | None = None,
        endpoint: str = "last",
        select: str | None = None,
        names: Path | None = None,
        interval: str = "t",
    ) -> Query:
        """From the texts of the options. Raises: BadInput: one of them means nothing."""
        if interval not in INTERVALS:
            raise RecordError(f"--interval {shown(interval, quote=False)}: {nearest(interval, sorted(INTERVALS))}")
        return cls(
            tuple(options.parts("--methods", methods, "methods")) if methods is not None else (), tuple(runs or ()),
            asked(protocol), Endpoint.parse(endpoint), Rule.parse(select) if select is not None else Rule(),
            select is not None, names_in(names) if names else {}, interval,
        )  # fmt: skip

    def load(self, results: Path, empty: bool = False, protocol: str | None = None) -> Records:
        """The records that are asked for, labelled with the names to show. `protocol`: where none was asked for.

        Raises: RecordError: as `load`; a method or run that is asked for is nowhere.
        """
        return self.among(load(results, empty, ",".join(self.protocols) or protocol))

    def among(self, records: Records) -> Records:
        """Those of `records` that are asked for, labelled with the names to show.

        Raises: RecordError: a method, run or knob that is asked for is nowhere, or two would go by one name.
        """
        asked_for(records, self.runs, self.rule)
        there = list(dict.fromkeys(name for run in records.runs for name in (run.series, run.stem, run.label)))
        for one in self.methods:
            if one not in there:
                hint = nearest(one, there, "") if there else "there are none"
                raise RecordError(f"--methods {shown(one, quote=False)}: no run of it under {records.root}; {hint}")
        groups = defaultdict[tuple[str, ...], list[Run]](list)
        for run in records.runs:
            if not self.methods or run.called & set(self.methods):
                groups[run.suite, run.task, run.series].append(run)
        kept = [one for several in groups.values() for one in self._of(several)]
        names = {run.label: self.shown(run.label) for run in kept}
        for label, name in names.items():
            if same := [other for other in names if names[other] == name and other != label]:
                raise RecordError(f"--names: {label} and {same[0]} would both be called {name}")
        every = sorted({run.label for run in kept}, key=records.position)
        order = [label for name in self.methods for label in every
                 if any(run.label == label and name in run.called for run in kept)]  # fmt: skip
        return only(records, kept, names, order)

    def _of(self, several: Sequence[Run]) -> Sequence[Run]:
        """Those of one method's runs on a task that are asked for; all if none is."""
        found = [run for run in several if asks(run, self.runs)] if len(several) > 1 and self.runs else []
        return found or several

    def shown(self, label: str) -> str:
        """A label as it is to be shown: its own name, or that of the method (or "vgf online") it begins with, in front
        of what sets it apart."""
        for one in sorted(self.names, key=len, reverse=True):
            if label == one or label.startswith(f"{one} "):
                return self.names[one] + label.removeprefix(one)
        return label


def asked_for(records: Records, runs: Sequence[str], rule: Rule) -> None:
    """Raises: RecordError: a run that `--run` names, or a knob that the rule fixes, is nowhere."""
    for one in runs:
        if not one.strip() or not any(asks(run, [one]) for run in records.runs):
            raise RecordError(f"--run {shown(one)}: no run has such a fingerprint or setting")
    knobs = (PAPER_KNOB, *records.knobs)  # what the paper fixes may be asked for before it was run
    if unknown := [knob for knob in rule.at if knob not in knobs]:
        raise RecordError(f"--select {shown(str(rule))}: no run has a knob {shown(unknown[0])}; "
                          f"{nearest(unknown[0], sorted(set(knobs)), '')}")  # fmt: skip


def asks(run: Run, wanted: Sequence[str]) -> bool:
    """Whether a run has every setting and one of the fingerprints in `wanted`; a setting may be written as records have
    it, or as labels do ("alpha=3.0", "alpha=3")."""
    settings = {f"{key}={said}" for key, value in run.settings.items() for said in (value, text_of(value))}
    prints = tuple(one for one in wanted if "=" not in one)
    return settings.issuperset(one for one in wanted if "=" in one) and run.fingerprint.startswith(prints or "")


def names_in(path: Path) -> dict[str, str]:
    """Method or label -> name to show, of a CSV with two columns. Raises: RecordError: it is none."""
    text = content(path)
    if text is None:
        raise RecordError(f"--names {path}: no such file")
    found = dict[str, str]()
    try:
        for line, row in enumerate(csv.reader(io.StringIO(text.decode("utf-8-sig"), newline=""), strict=True), start=1):
            fields = [printable(one.strip()) for one in row]
            if not any(fields) or (line == 1 and fields == ["method", "name"]):
                continue
            if len(fields) != 2 or not all(fields):
                raise RecordError(f"--names {path}:{line}: {shown(','.join(row))} is no `method,name`")
            if fields[0] in found:
                raise RecordError(f"--names {path}:{line}: {fields[0]} stands there twice")
            found[fields[0]] = fields[1]
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"--names {path}: {error}") from None
    return found
