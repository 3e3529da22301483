"""Measured beside published: a difference with its interval, and a verdict, for every number that print has.

reproduced       the true difference is within the margin: both one-sided tests at 5%, the 90% interval lies within it.
differs          the true difference is not zero: Welch's test at 5%, Holm-corrected over the table.
not enough data  neither can be said; `why` gives n and what would be detected four times in five, or what is missing.
Reproduced comes first: a difference can be both real and too small to matter.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.choices import Choice, united
from analysis.output import short
from analysis.published import ONLINE, canonical, ours_of, protocol_of, tasks_of
from analysis.query import Query, asked_for, asks
from analysis.records.load import Records
from analysis.records.runs import PROTOCOLS, Run
from analysis.select import PICKS, Endpoint, Rule, choose, offline
from analysis.statistics.significance import (
    ALPHA,
    CORRECTIONS,
    Comparison,
    Sample,
    clustered,
    detectable,
    equivalence,
    welch,
)

REPRODUCED, DIFFERS, OPEN = "reproduced", "differs", "not enough data"
MARGIN = 5.0  # points
ASSUMED_SEEDS = 5  # behind a published mean +- std that does not say

NO_RUN = "no run"
OTHER = ("generated", "given")  # origins of data that need not be those in print

Key = tuple[str, str, str]
"""(suite, canonical task, our method with its protocol where several of the suite are shown, or the name asked for)."""


@dataclass(frozen=True)
class Terms:
    """By which declared rules measured and published are compared."""

    endpoint: Endpoint = field(default_factory=Endpoint)
    rule: Rule = field(default_factory=Rule)
    margin: float = MARGIN
    """Points within which a difference counts as none."""
    correction: str = "holm"
    """Over the cells of a table that are tested: a key of CORRECTIONS."""
    runs: tuple[str, ...] = ()
    """Which run speaks where a task has several of a method: beginnings of fingerprints, or settings as `bank=16`."""
    protocols: tuple[str, ...] = ()
    """Those that were asked for. Runs of one that is asked for alone count beside numbers of any."""

    @classmethod
    def of(cls, query: Query, margin: float = MARGIN, correction: str = "holm") -> Terms:
        """What a command is asked for."""
        return cls(query.endpoint, query.rule, margin, correction, query.runs, query.protocols)


@dataclass
class Cell:
    """What there is of one method on one task."""

    run: Run | None = None
    choice: Choice | None = None
    why: str = NO_RUN
    """What is missing, or ""."""
    remark: str = ""
    step: int = 0


def compare(records: Records, published: pd.DataFrame, terms: Terms) -> tuple[pd.DataFrame, list[str]]:
    """One row a (published row, method of ours), in the order of print, and notes.

    Columns: table, suite, environment, task, published_method, method, published (mean), published_std,
    published_seeds, published_unit (of its last digit), measured, std, seeds, told (which of one task's
    are missing), picks, rule, bias, step, difference,
    error (standard), low, high, p, p_corrected, p_equivalence, detectable, verdict, why, runs, remark.
    What is not known is NaN.
    """
    frames, notes = list[pd.DataFrame](), list[str]()
    parts = _by_protocol(published, terms.protocols)
    for rows, first in parts:
        frame, remarks = _compare(_under(records, rows, parts), rows, terms)
        frames.append(frame)
        notes += remarks if first else []
    return pd.concat(frames, ignore_index=True), notes


def _by_protocol(published: pd.DataFrame, asked: Sequence[str]) -> list[tuple[pd.DataFrame, bool]]:
    """The rows of the suites' default protocols, then those of each other, and whether they are the first of these. All
    in one where one protocol was asked for, which then stands beside whatever was printed."""
    names = published.apply(protocol_of, axis=1) if len(published) else pd.Series(dtype=str)
    main = names.to_numpy() == [PROTOCOLS.get(suite, "") for suite in published["suite"]]
    if len(asked) == 1 or main.all():
        return [(published, True)]
    parts = [published[main], *(published[~main & (names == name).to_numpy()] for name in names[~main].unique())]
    return [(rows, i == 0) for i, rows in enumerate(rows for rows in parts if len(rows))]


def _under(records: Records, rows: pd.DataFrame, parts: Sequence[tuple[pd.DataFrame, bool]]) -> Records:
    """The records without the runs of suites that stand in another part, under its protocol."""
    if len(parts) == 1:
        return records
    theirs = {(row["suite"], protocol_of(row)) for other, _ in parts if other is not rows
              for row in other.drop_duplicates(["suite", "protocol"]).to_dict("records")}  # fmt: skip
    return replace(records, runs=tuple(run for run in records.runs if (run.suite, run.protocol) not in theirs))


def _compare(records: Records, published: pd.DataFrame, terms: Terms) -> tuple[pd.DataFrame, list[str]]:
    records, notes = _as_published(records, published, terms.protocols)
    cells = measured(records, terms) | measured_online(records, published, terms)
    notes += [f"{'/'.join(key)}: {cell.remark}" for key, cell in cells.items() if cell.remark]
    rows = []
    unused = set(cells)
    for row in published.to_dict("records"):
        ours = ours_of(row["method"]) or (row["method"].lower(),)
        tasks = tasks_of(row)
        present = [name for name in ours if any((row["suite"], task, name) in cells for task in tasks)]
        unused -= {(row["suite"], task, name) for task in tasks for name in ours}
        for name in present or ours[:1]:
            rows.append(_compared(row, name, [cells.get((row["suite"], task, name), Cell()) for task in tasks], terms))
    frame = pd.DataFrame(rows)
    if len(frame):
        for _, group in frame.groupby("table", sort=False):
            frame.loc[group.index, "p_corrected"] = CORRECTIONS[terms.correction](group["p"].to_numpy(float))
        verdicts = [_verdict(row) for row in frame.to_dict("records")]
        frame["verdict"], frame["why"] = zip(*verdicts, strict=True)
    for suite in sorted({key[0] for key in unused}):
        methods = sorted({key[2] for key in unused if key[0] == suite})
        count = sum(key[0] == suite for key in unused)
        notes.append(f"{suite}: {count} runs belong to no published number here ({', '.join(methods)})")
    if (assumed := published["seeds"].isna() & published["std"].notna()).any() and len(cells):
        notes.append(f"{int(assumed.sum())} published numbers do not say their seeds; {ASSUMED_SEEDS} are assumed")
    return frame, notes


def unpublished(records: Records, published: pd.DataFrame, terms: Terms) -> pd.DataFrame:
    """Rows as those of `compare`, without a verdict, of the methods that a published table does not have, on the rows
    it has; `published_method` is the name to show."""
    parts = _by_protocol(published, terms.protocols)
    return pd.concat([_unpublished(_under(records, rows, parts), rows, terms) for rows, _ in parts], ignore_index=True)


def _unpublished(records: Records, published: pd.DataFrame, terms: Terms) -> pd.DataFrame:
    records, _ = _as_published(records, published, terms.protocols)
    offline_cells, online_cells = measured(records, terms), measured_online(records, published, terms)
    found = []
    for _, rows in published.groupby("table", sort=False):
        cells = online_cells if _goes_online(rows) else offline_cells
        theirs = {name for method in rows["method"].unique() for name in ours_of(method)}
        places = rows.drop_duplicates(["suite", "environment", "task"]).to_dict("records")
        here = {(row["suite"], task) for row in places for task in tasks_of(row)}
        labels: dict[str, set[str]] = defaultdict(set)
        for key, cell in cells.items():
            if key[:2] in here and key[2] not in theirs:
                labels[key[2]].add(cell.run.label if cell.run else key[2])
        ours = {name: of.pop() if len(of) == 1 else name for name, of in labels.items()}
        for name in sorted(ours, key=lambda name: records.position(ours[name])):
            for row in places:
                of = [cells.get((row["suite"], task, name), Cell()) for task in tasks_of(row)]
                blank = row | {"method": ours[name], "mean": math.nan, "std": math.nan, "seeds": math.nan}
                found.append(_compared(blank, name, of, terms) | {"verdict": ""})
    return pd.DataFrame(found)


def _as_published(records: Records, published: pd.DataFrame, asked: Sequence[str]) -> tuple[Records, list[str]]:
    """(the records of runs under the protocols of the published numbers, notes on the others); all where one protocol
    was asked for."""
    if len(asked) == 1:
        return records, []
    theirs: dict[str, set[str]] = defaultdict(set)
    for row in published.to_dict("records"):
        theirs[row["suite"]].add(protocol_of(row))
    kept = [run for run in records.runs if run.protocol in theirs.get(run.suite, (run.protocol,))]
    left = sorted({(run.suite, run.protocol) for run in records.runs} - {(run.suite, run.protocol) for run in kept})
    notes = [f"{suite}: runs of protocol {name} are not laid beside numbers of {', '.join(sorted(theirs[suite]))}; "
             f"--protocol {name} does" for suite, name in left]  # fmt: skip
    return replace(records, runs=tuple(replace(run, mark="") for run in kept)), notes


def measured(records: Records, terms: Terms) -> dict[Key, Cell]:
    """What the records hold of each method on each task, default tasks under their number; offline results.

    Several runs of one method on one task are never pooled: the cell says so, unless `terms.runs` names one.

    Raises: RecordError: `terms` name a run or a knob that is nowhere.
    """
    asked_for(records, terms.runs, terms.rule)
    found: dict[Key, list[tuple[Run, pd.DataFrame]]] = defaultdict(list)
    for run, rows in records.each():
        found[run.suite, canonical(run.task), run.method + run.mark].append((run, rows))
    return {key: _published(several, terms) for key, several in found.items()}


def measured_online(records: Records, published: pd.DataFrame, terms: Terms) -> dict[Key, Cell]:
    """The same of runs that went on online, by "fql online", what counts being of that phase; none where print has no
    such numbers."""
    if not _goes_online(published):
        return {}
    found: dict[Key, list[tuple[Run, pd.DataFrame]]] = defaultdict(list)
    for run, rows in records.each():
        if run.online:
            found[run.suite, canonical(run.task), run.stem + run.mark].append((run, rows))
    return {key: _named(several, terms) for key, several in found.items()}


def _goes_online(published: pd.DataFrame) -> bool:
    return bool(published["method"].str.endswith(ONLINE).any())


def measured_by_name(records: Records, names: Sequence[str], terms: Terms) -> dict[Key, Cell]:
    """The same for what goes by some names: labels of runs, or names of methods (as "vgf", "vgf online"), each beside
    the others; of a method the runs that its name alone does not tell apart are named by their labels.

    Raises: as `measured`.
    """
    asked_for(records, terms.runs, terms.rule)
    labels = {(run.suite, name) for run in records.runs for name in (run.label, run.renamed)}
    found: dict[Key, list[tuple[Run, pd.DataFrame]]] = defaultdict(list)
    for run, rows in records.each():
        for name in names:
            if name in ((run.label, run.renamed) if (run.suite, name) in labels else run.called):
                found[run.suite, canonical(run.task), name].append((run, rows))
    return {key: _named(several, terms) for key, several in found.items()}


def _published(several: Sequence[tuple[Run, pd.DataFrame]], terms: Terms) -> Cell:
    """Of a run and its online continuation, the first counts: print has none."""
    if len(several) > 1:
        asked = [one for one in several if asks(one[0], terms.runs)]
        stayed = [one for one in asked if not one[0].online]  # whose online twin began as it did
        asked = stayed if len(stayed) == 1 else asked
        if len(asked) != 1:
            prints = ", ".join(sorted(run.fingerprint[:8] for run, _ in several))
            return Cell(why=f"{len(several)} runs ({prints}), --run names one", remark="several runs, none counted")
        several = asked
    run, rows = several[0]
    went_on = bool((rows["phase"] == "online").any())
    rows, missing = terms.endpoint(offline(rows))
    return _cell(run, rows, "no offline evaluation" if rows.empty else missing, went_on, terms)


def _named(several: Sequence[tuple[Run, pd.DataFrame]], terms: Terms) -> Cell:
    named = [one for one in several if asks(one[0], terms.runs)] or several
    if len(named) > 1:
        labels = ", ".join(run.label for run, _ in named)
        return Cell(why=f"{len(named)} runs ({labels}): name one, or --run does", remark="several runs, none counted")
    run, rows = named[0]
    return _cell(run, *terms.endpoint.of(run, rows), False, terms)


def _cell(run: Run, rows: pd.DataFrame, missing: str, went_on: bool, terms: Terms) -> Cell:
    """What the rule makes of the rows that count. `went_on`: after them, so that they are no unfinished run's."""
    if rows.empty:
        return Cell(run, None, missing)
    step = int(rows["step"].max())
    choice = choose(run, rows, terms.rule)
    if isinstance(choice, str):
        return Cell(run, None, choice, step=step)
    if choice.status != "finished" and not went_on and not terms.endpoint.steps:
        missing = missing or f"the run {run.ending}, at step {step}"
    return Cell(run, choice, missing, "; ".join(filter(None, (terms.rule.left_open(run, choice), choice.told))), step)


def _compared(row: Mapping[Any, Any], method: str, cells: Sequence[Cell], terms: Terms) -> dict[str, object]:
    """Numbers of one row; `why` is what is missing, "" where the numbers may be judged."""
    known = [cell for cell in cells if cell.choice is not None]
    choices = [cell.choice for cell in known if cell.choice is not None]
    own, dropped = united(choices)
    seeds = ASSUMED_SEEDS if math.isnan(row["seeds"]) else row["seeds"]
    printed = Sample(row["mean"], row["std"], seeds, row["unit"])
    against = welch(own, printed) if own.n else Comparison(*[math.nan] * 6)
    reasons = list(dict.fromkeys(cell.why for cell in cells if cell.why))
    if 0 < len(known) < len(cells):
        reasons = [f"{len(known)} of {len(cells)} tasks", *(why for why in reasons if why != NO_RUN)]
        against = against._replace(**dict.fromkeys(("difference", "low", "high", "p"), math.nan))
    if choices and not own.n:
        reasons.append("no seed that all its tasks have")
    early = [cell.step for cell in known if cell.step < 0.99 * row["steps"]]
    remarks = [f"{min(early):,} of {row['steps']:,.0f} steps"] if early else []
    remarks += [f"without seeds {', '.join(map(str, dropped))}, which not all its tasks have"] if dropped else []
    remarks += list(dict.fromkeys(note for cell in known if cell.run for note in _circumstances(cell.run)))
    if other := {cell.run.protocol for cell in known if cell.run} - {protocol_of(row)}:
        remarks.append(f"protocol {', '.join(sorted(other))}, published {protocol_of(row)}")
    told = choices[0].told if len(cells) == 1 and choices else ""
    if len(cells) > 1:
        several = [(cell.run.task, cell.choice.told) for cell in known if cell.run and cell.choice]
        remarks += [f"{short(task)}: {said}" for task, said in several if said]
    picks = list(dict.fromkeys(PICKS.join(choice.picks) for choice in choices if choice.picks))
    return {
        "table": row["table"], "suite": row["suite"], "environment": row["environment"], "task": row["task"],
        "published_method": row["method"], "method": method, "published": row["mean"], "published_std": row["std"],
        "published_seeds": row["seeds"], "published_unit": row["unit"],
        "measured": own.mean, "std": own.std, "seeds": own.n, "told": told,
        "picks": ", ".join(picks), "rule": _rule_of(choices),
        "bias": np.mean([choice.bias for choice in choices] or [0.0]),
        "step": max((cell.step for cell in known), default=math.nan), "difference": against.difference,
        "error": against.error,
        "low": against.low, "high": against.high, "p": math.nan if reasons else against.p, "p_corrected": math.nan,
        "p_equivalence": math.nan if reasons else float(equivalence(against, terms.margin)),
        "detectable": detectable(against), "verdict": OPEN, "why": "; ".join(reasons),
        "runs": sum(cell.why != NO_RUN for cell in cells), "remark": "; ".join(remarks),
    }  # fmt: skip


def _circumstances(run: Run) -> list[str]:
    """In what a run's data and simulators differ from those in print."""
    data = run.meta.get("dataset") or {}
    found = (
        [f"{data['origin']} data, {data.get('transitions', 0):,} transitions"] if data.get("origin") in OTHER else []
    )
    timing = (run.meta.get("task_options") or {}).get("success_timing", "post")
    return found + ([f"success_timing={timing}"] if timing != "post" else [])


def _rule_of(choices: Sequence[Choice]) -> str:
    return " / ".join(dict.fromkeys(choice.rule for choice in choices if choice.picks))


def _verdict(row: Mapping[Any, Any]) -> tuple[str, str]:
    """(verdict, why)."""
    n = row["told"] or f"n={row['seeds']:g}"
    if row["why"]:
        return OPEN, f"{n}; {row['why']}" if row["seeds"] else row["why"]
    if row["seeds"] < 2:
        return OPEN, n
    if math.isnan(row["published_std"]):
        return OPEN, f"{n}; published without std"
    if row["p_equivalence"] < ALPHA:
        return REPRODUCED, n
    if (p := row["p_corrected"]) < ALPHA:
        return DIFFERS, f"{n}, p{'<0.0001' if p < 1e-4 else f'={p:.2g}'}"
    return OPEN, f"{n}, detects {row['detectable']:.1f} points uncorrected"


def overall(compared: pd.DataFrame) -> pd.DataFrame:
    """By method of one table, measured minus published over all its rows: every row as a unit, and every environment.

    Columns: published_method, method, rows, environments, difference (mean over environments), then for either reading
    low, high, p (t) and wilcoxon, with the suffixes _rows and _environments. Methods with one row are left out.
    """
    found = []
    known = compared[compared["difference"].notna()]
    for (printed, method), rows in known.groupby(["published_method", "method"], sort=False):
        if len(rows) > 1:
            both = clustered(rows["difference"].to_numpy(), rows["environment"].tolist(), rows["error"].to_numpy())
            entry = {"published_method": printed, "method": method, "rows": len(rows)}
            entry |= {"environments": rows["environment"].nunique(), "difference": both.environments.difference}
            for name, one, ranks in zip(("rows", "environments"), both[:2], both[2:], strict=True):
                entry |= {f"{key}_{name}": getattr(one, key) for key in ("low", "high", "p")}
                entry[f"wilcoxon_{name}"] = ranks
            found.append(entry)
    return pd.DataFrame(found)


def counts(compared: pd.DataFrame) -> Mapping[str, int]:
    """How often each verdict was reached, and how many cells have no run."""
    none = compared["runs"] == 0
    found = {name: int(((compared["verdict"] == name) & ~none).sum()) for name in (REPRODUCED, DIFFERS, OPEN)}
    return found | {"no run": int(none.sum())}
