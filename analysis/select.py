"""Which episodes count for a method: the evaluations that count (`Endpoint`), and what picks a knob setting (`Rule`).

A rule is declared, never implied. The paper evaluates four L_test values on 50 episodes each and leaves its rule open;
the largest of four equal arms at success 0.5 is some 7 points too high (facts/vgf.md, item 7). Here, for any knobs:
`fixed`     one setting, chosen before looking; every setting has its own row.
`new-seeds` each seed is scored at the setting that is best on all other seeds. It speaks of newly trained seeds, and
            counts unless another rule is asked for. A run of one seed falls back to `held-out`.
`held-out`  the setting is picked on half of the episodes and scored on the other half, both ways round. It speaks of
            the trained seeds at hand: the choice has seen them, and what it gains by that new seeds do not have.
`offline`   each seed is scored at the setting that its critics and held-out data prefer (`offline_rules.py`, by
            `offline:lcb`, ...): no score has a say. It needs `python -m harness.offline`.
`oracle`    the setting that scored best is picked on the very episodes it is scored on: biased upward, by an estimate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.choices import (
    FIXED,
    HELD_OUT,
    NEW_SEEDS,
    OFFLINE,
    ORACLE,
    Arms,
    Choice,
    arms,
    by_estimates,
    crossed,
    held_out,
    new_seeds,
    oracle,
    settings,
)
from analysis.endpoint import Endpoint as Endpoint  # what counts for a method is both
from analysis.endpoint import headline as headline
from analysis.endpoint import offline as offline
from analysis.endpoint import windows
from analysis.offline_rules import DEFAULT, RULES, estimates, preferences
from analysis.records.episodes import setting_name
from analysis.records.files import RecordError, shown
from analysis.records.load import Records
from analysis.records.runs import Run
from analysis.statistics.estimates import Summary, generator

PICKS = " / "  # between the picks for odd and for even episodes, where they differ
PAPER_KNOB = "L_test"  # what a bare number fixes


@dataclass(frozen=True)
class Rule:
    """What picks a knob setting. `at` holds the fixed knobs; what is left open beside them is picked on other seeds."""

    name: str = NEW_SEEDS
    at: Mapping[str, float] = field(default_factory=dict)
    by: str = ""  # of `offline`: a key of offline_rules.RULES

    @classmethod
    def parse(cls, text: str) -> Rule:
        """`new-seeds`, `held-out`, `oracle`, `offline:lcb`, `fixed:1` (L_test) or `fixed:w=0.02,N=4`.

        Raises: RecordError naming anything else.
        """
        if text in (NEW_SEEDS, HELD_OUT, ORACLE):
            return cls(text)
        if text.partition(":")[0] == OFFLINE:
            by = text.partition(":")[2] if ":" in text else DEFAULT
            if by in RULES:
                return cls(OFFLINE, by=by)
            raise RecordError(f"--select {shown(text)}: offline goes by {', '.join(RULES)}")
        if text.startswith(f"{FIXED}:"):
            pairs = [one.rpartition("=") for one in text.removeprefix(f"{FIXED}:").split(",")]
            try:
                at = {name.strip() or PAPER_KNOB: float(value) for name, _, value in pairs}
            except ValueError:
                at = {}
            if len(at) == len(pairs) and all(map(math.isfinite, at.values())):
                return cls(FIXED, at)
        raise RecordError(f"--select {shown(text)} is none of: fixed:1, fixed:w=0.02,N=4, new-seeds, held-out, oracle, "
                          f"offline:{DEFAULT}")  # fmt: skip

    def left_open(self, run: Run, choice: Choice) -> str:
        """What another rule than this one decided: knobs that it does not fix, though it fixes some, or the choice of a
        single seed, which has no others; or ""."""
        if self.at and choice.rule != FIXED:
            return f"{self} leaves {', '.join(knob for knob in run.knobs if knob not in self.at)} open: {choice.rule}"
        if self.name == NEW_SEEDS and choice.rule == HELD_OUT:
            return "one seed chooses on its own episodes: held-out"
        return ""

    def __str__(self) -> str:
        if self.by:
            return f"{self.name}:{self.by}"
        return f"{self.name}:{setting_name(self.at).replace(' ', ',')}" if self.at else self.name


def choose(run: Run, rows: pd.DataFrame, rule: Rule) -> Choice | str:
    """What the rule makes of the rows of a run's counting evaluations; a line that says why where it cannot."""
    mine = {name: value for name, value in rule.at.items() if name in run.knobs}
    for name, value in mine.items():
        present = sorted(rows[name].unique().tolist())
        rows = rows[np.isclose(rows[name], value)]
        if rows.empty:
            return f"no {name}={value:g} among {', '.join(f'{one:g}' for one in present)}"
    return chosen(run, arms(rows, settings(rows, run.knobs)), rule)


def chosen(run: Run, of: Arms, rule: Rule) -> Choice | str:
    """What the rule makes of a run's settings, those that it fixes being all that is left; why not, where it cannot."""
    if len(of.settings) == 1:
        choice = Choice(of.scores[0], of.seeds, of.episodes, tuple(filter(None, of.settings)), FIXED)
    elif rule.name == OFFLINE:
        known = estimates(run)
        if isinstance(known, str):
            return known
        values, seeds = preferences(known, rule.by, of.settings)
        chosen_offline = by_estimates(of, values, seeds, str(rule))
        if chosen_offline is None:
            return f"{rule}: offline.csv says nothing of these settings (a critic of one member has no lcb)"
        choice = chosen_offline
    elif rule.name == ORACLE:
        choice = oracle(of, generator(run.suite, run.task))
    elif (found := crossed(of, rule.name)) is None:
        return "some setting has no even or no odd episodes to choose on"
    else:
        choice = found
    return _of(run, choice)


def scores(
    records: Records, oracle_too: bool = False, endpoint: Endpoint | None = None, rule: Rule | None = None,
    interval: str = "t",
) -> tuple[pd.DataFrame, list[str]]:  # fmt: skip
    """One row a (run, rule, setting) of the evaluations that count, and notes on it; with a `rule` one row a run, of
    what it picks. `interval`: a key of INTERVALS.

    Columns: suite, protocol ("" where the suite has no names for them), task, method, label, row (the name to show),
    rule, setting, picks, <knobs> (NaN unless the rule is `fixed`), status (of the seeds in it), fingerprint, phase,
    step, mean, std, low, high, over, seeds, episodes, bias (of the oracle), meant (seeds that were started) and told
    ("n = 4 of 5 (seed 3 failed: ...)", "" if all are in it).
    """
    cells: list[dict[str, object]] = []
    endpoint = endpoint or Endpoint()
    notes = windows(records, endpoint)
    for run, episodes in records.each():
        name = f"{run.suite}/{run.task} {run.label}"
        rows, missing = endpoint.of(run, episodes)
        if missing:
            notes.append(f"{name}: {missing}")
        if rows.empty:
            continue
        first = rows.iloc[-1]
        if first["phase"] != "final" and not endpoint.steps:
            notes.append(f"{name}: no final evaluation, the {first['phase']} one at step {first['step']} stands in")
        found, remarks = _choices(run, rows, oracle_too) if rule is None else _choice(run, rows, rule)
        told = next((one.told for one in found), "")
        notes += [f"{name}: {line}" for line in (told, *remarks) if line]
        at = rows.drop_duplicates("setting").set_index("setting")
        for one in found:
            fixed = one.rule == FIXED
            setting = next(iter(one.picks), "") if fixed else ""
            values = {k: at.loc[setting, k] if fixed and k in run.knobs else None for k in records.knobs}
            cells.append(
                {"suite": run.suite, "protocol": run.protocol, "task": run.task, "method": run.method}
                | {"label": run.label}
                | {"row": f"{run.label} {setting}".strip() if fixed else f"{run.label} ({one.rule})"}
                | {"rule": one.rule, "setting": setting, "picks": PICKS.join(one.picks), **values}
                | {"status": one.status, "fingerprint": run.fingerprint, "phase": first["phase"], "step": first["step"]}
                | one.summary(generator(run.suite, run.task), interval)._asdict()
                | {"bias": one.bias, "meant": one.meant, "told": told}
            )
    before = ("suite", "protocol", "task", "method", "label", "row", "rule", "setting", "picks", *records.knobs)
    after = ("status", "fingerprint", "phase", "step", *Summary._fields, "bias", "meant", "told")
    return pd.DataFrame(cells, columns=[*before, *after]).astype(dict.fromkeys(records.knobs, float)), notes


def _choices(run: Run, rows: pd.DataFrame, oracle_too: bool) -> tuple[list[Choice], list[str]]:
    """Every setting of a run, and of several the choices by other seeds and by other episodes, and the oracle's; notes
    on what cannot be."""
    of = arms(rows, settings(rows, run.knobs))
    pairs = zip(of.scores, of.settings, strict=True)
    found, notes = [Choice(values, of.seeds, of.episodes, (setting,), FIXED) for values, setting in pairs], list[str]()
    if len(found) > 1:
        if (choice := held_out(of)) is None:
            notes.append("no held-out row; some setting has no even or no odd episodes")
        else:
            found += [one for one in (new_seeds(of), choice) if one is not None]
        if oracle_too:
            found.append(oracle(of, generator(run.suite, run.task)))
    return [_of(run, one) for one in found], notes


def _choice(run: Run, rows: pd.DataFrame, rule: Rule) -> tuple[list[Choice], list[str]]:
    """What the rule makes of a run; a note where it cannot, or leaves a knob to the held-out one."""
    choice = choose(run, rows, rule)
    if isinstance(choice, str):
        return [], [f"{choice}; not shown"]
    return [choice], list(filter(None, [rule.left_open(run, choice)]))


def _of(run: Run, choice: Choice) -> Choice:
    """The same with what the run says of its seeds."""
    seeds = choice.seeds.tolist()
    return choice._replace(told=run.told(seeds), meant=len(run.meant), status=run.status_of(seeds))
