"""Win rates of a published table (Table 3) beside ours, judge by judge.

Win rates by different judges are never compared: those of one policy range from 46 to 65 (docs/judges.md). Print's
judge is not ours, so there are intervals here, but neither a difference nor a verdict on one. The reward model that a
run optimised is no judge of it: its verdicts say how far it was optimised, not how good the responses are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd

from analysis.choices import Arms, Choice
from analysis.compare import NO_RUN, OTHER, Terms, compare
from analysis.judged import RECORDED, Judged, Verdicts, described, each, numbers
from analysis.published import ours_of
from analysis.query import asks
from analysis.records.load import Records
from analysis.records.mirror import spoken
from analysis.records.runs import SHARES, Run
from analysis.select import PICKS, chosen
from analysis.statistics.winrate import wilson
from core import checkpoints

NOT_COMPARED = "not compared"
PROXY = f"{RECORDED}:proxy"
"""`task.judge=proxy`: the harness had the very reward model judge that is optimised."""
REWARD = "reward_model"
Methods = dict[str, list[Judged]]


def beside(records: Records, published: pd.DataFrame, terms: Terms) -> tuple[pd.DataFrame, list[str], list[str]]:
    """(as `compare`, with a row a judge of published win rates; notes; a line for each judge that was refused).

    Further columns of win rates, NaN elsewhere: judge, judge_is, measured_low, measured_high, published_low,
    published_high, published_prompts, published_judge, and those of `judged.numbers`. Methods of ours that print does
    not have are rows without a published number.
    """
    language = published["suite"].isin(SHARES) if len(published) else pd.Series(dtype=bool)
    suites = set(published.loc[language, "suite"]) if len(published) else set[str]()
    frame, notes = compare(records, published[~language] if len(published) else published, terms)
    notes = [note for note in notes if not note.startswith(tuple(f"{suite}{end}" for suite in suites for end in ":/"))]
    if not suites:
        return frame, notes, []
    others = tuple(f"{suite}: " for suite in SHARES - suites)
    notes = [note + "; analysis.verdicts has their win rates" * note.startswith(others) for note in notes]
    mine = replace(records, runs=tuple(run for run in records.runs if run.suite in suites))
    refused = list[str]()
    rows = pd.DataFrame(_rows(mine, published[language], terms, notes, refused))
    return pd.concat([frame, rows] if len(frame) else [rows], ignore_index=True), notes + refused, refused


def _rows(
    records: Records, published: pd.DataFrame, terms: Terms, notes: list[str], refused: list[str]
) -> Iterator[dict[str, Any]]:
    by: dict[tuple[str, str], dict[str, Methods]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for one in each(records, "", notes):
        by[one.run.suite, one.run.task][one.judge][one.run.method].append(one)
    ran: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in records.runs:
        ran[run.suite, run.task].append(run)
    allowed = dict[tuple[str, str], dict[str, Methods]]()
    for place, judges in by.items():
        optimised = {judge for judge, methods in judges.items() if _optimised(judge, methods, ran[place], records)}
        refused += [_refusal(place, judge, records) for judge in sorted(optimised)]
        allowed[place] = {judge: methods for judge, methods in judges.items() if judge not in optimised}
    for suite, task in dict.fromkeys(zip(published["suite"], published["task"], strict=True)):
        judged = {name for methods in allowed.get((suite, task), {}).values() for name in methods}
        if missing := ", ".join(sorted({run.method for run in ran[suite, task]} - judged)):
            notes.append(f"{suite}/{task}: not judged yet by a judge that counts here: {missing}; "
                         f"python -m tasks.judge {spoken(records.root)} --judge http ...")  # fmt: skip
    for (_, suite, task), rows in published.groupby(["table", "suite", "task"], sort=False):
        runs = {run.method for run in ran[suite, task]}
        for judge, methods in (allowed.get((suite, task)) or {"": {}}).items():
            theirs = set[str]()
            for row in rows.to_dict("records"):
                ours = ours_of(row["method"])
                theirs |= {*ours}
                for name in [one for one in ours if one in methods] or ours[:1] or (row["method"].lower(),):
                    yield _row(row, name, judge, methods.get(name, []), name in runs, terms)
            for name in sorted(set(methods) - theirs):
                blank = dict.fromkeys(("mean", "std", "seeds", "prompts"), math.nan) | {"method": name, "judge": ""}
                yield _row(rows.iloc[0].to_dict() | blank, name, judge, methods[name], True, terms)


def _refusal(place: tuple[str, str], judge: str, records: Records) -> str:
    who = f"{judge} (task.judge=proxy)" if judge == PROXY else judge
    return (
        f"{'/'.join(place)}: the judge {who} is the reward model that runs there optimised, so its verdicts say how "
        "far it was optimised, not how good the responses are, and are not laid beside print; judge by another one: "
        f"python -m tasks.judge {spoken(records.root)} --judge http ..., or --judge reward-model with another model"
    )


def _optimised(judge: str, methods: Methods, runs: Sequence[Run], records: Records) -> bool:
    """Whether a judge is a reward model that a run on the task optimised: as the judge's record says, by its name, by a
    stage's fingerprint in its path or in the checkpoint.json beside it, or by its weights, whatever they are called."""
    if judge == PROXY:
        return True
    abouts = [one.about for several in methods.values() for one in several]
    if any(about.get("optimised") for about in abouts):
        return True
    known = {name for about in abouts if about.get("kind") == "reward model" for name in _names(about)}
    return bool(known) and any(known & _made(run, records) for run in runs)


def _names(about: Mapping[str, Any]) -> set[str]:
    model = str(about.get("model", ""))
    marks = {*about.get("weights", ()), *about.get("tensors", ()), about.get("contents", ""), about.get("stage", "")}
    return {model, *PurePath(model).parts, *marks} - {"", ".", "..", "/"}


def _made(run: Run, records: Records) -> set[str]:
    """What the reward models of a run are known by."""
    given = run.settings.get("reward_checkpoint")
    found = {given} if isinstance(given, str) and given else set[str]()
    stages = [stage for source in run.sources for stage in source.meta.get("stages") or []]
    for stage in stages:
        if stage["name"] == REWARD:
            found |= {stage["fingerprint"], *checkpoints.made(records.root / "artifacts" / stage["fingerprint"])}
    return found


def _row(
    row: Mapping[Any, Any], method: str, judge: str, several: Sequence[Judged], ran: bool, terms: Terms
) -> dict[str, Any]:
    """One number of print and one of ours, or why there is none."""
    printed = wilson(row["mean"] / 100, int(row["prompts"])) if not math.isnan(row["prompts"]) else (math.nan, math.nan)
    blank = dict.fromkeys(
        ("measured", "std", "seeds", "step", "difference", "error", "low", "high", "p", "p_corrected", "p_equivalence",
         "detectable", "measured_low", "measured_high", "consistent", "invalid", "prompts", "verdicts"), math.nan
    )  # fmt: skip
    found: dict[str, Any] = {
        "table": row["table"], "suite": row["suite"], "environment": row["environment"], "task": row["task"],
        "published_method": row["method"], "method": method, "published": row["mean"], "published_std": row["std"],
        "published_seeds": row["seeds"], "published_unit": row["unit"], **blank, "told": "", "picks": "", "rule": "",
        "bias": 0.0, "verdict": NOT_COMPARED, "why": NO_RUN, "runs": 0, "remark": "", "judge": judge, "judge_is": "",
        "published_low": 100 * printed[0], "published_high": 100 * printed[1], "published_prompts": row["prompts"],
        "published_judge": row["judge"],
    }  # fmt: skip
    if len(several) > 1:
        asked = [one for one in several if asks(one.run, terms.runs)]
        if len(asked) != 1:
            prints = ", ".join(sorted(one.run.fingerprint[:8] for one in several))
            return found | {"why": f"{len(several)} runs ({prints}), --run names one", "runs": len(several)}
        several = asked
    if not several:
        return found | {"why": (f"not judged by {judge}" if judge else "not judged yet") if ran else NO_RUN}
    one = several[0]
    found |= {"judge_is": described(judge, one.about), "runs": 1}
    made = _chosen(one, terms)
    return found | ({"why": made} if isinstance(made, str) else _measured(one, *made, terms))


def _chosen(one: Judged, terms: Terms) -> tuple[Choice, Verdicts] | str:
    """What the rule picks among a run's settings by this judge's verdicts, and these as `[s, e]`; why nothing."""
    grid = [{name: float(value) for name, _, value in (pair.rpartition("=") for pair in setting.split())}
            for setting in one.settings]  # fmt: skip
    fixed = {name: value for name, value in terms.rule.at.items() if name in one.run.knobs}
    left = [k for k, at in enumerate(grid) if all(math.isclose(at[name], fixed[name]) for name in fixed)]
    if not left:
        return f"no {' '.join(f'{name}={value:g}' for name, value in fixed.items())} among {', '.join(one.settings)}"
    values = {name: array[left] for name, array in one.values.items()}
    choice = chosen(one.run, Arms(100 * values["score"], [one.settings[k] for k in left], one.seeds, one.prompts),
                    terms.rule)  # fmt: skip
    if isinstance(choice, str):
        return choice
    at = choice.at[None]
    return choice, {name: np.take_along_axis(array, at, 0)[0] for name, array in values.items()}


def _data(run: Run) -> str:
    """ "given data" where a run's need not be those in print."""
    origin = (run.meta.get("dataset") or {}).get("origin")
    return f"{origin} data" if origin in OTHER else ""


def _measured(one: Judged, choice: Choice, values: Verdicts, terms: Terms) -> dict[str, Any]:
    of = numbers(values, one.run)
    own = choice.sample()
    remarks = [terms.rule.left_open(one.run, choice), _data(one.run)]
    remarks += [f"the run {one.run.ending}"] if choice.status != "finished" else []
    remarks += [f"model {one.run.settings['model']}"] if one.run.settings.get("model") else []
    agree = "" if math.isnan(of["consistent"]) else f", orders agree on {100 * of['consistent']:.1f}%"
    invalid = f", {100 * of['invalid']:.1f}% invalid" if of["invalid"] else ""
    n = f"{of['prompts']:g} prompts x {len(one.seeds)} seed{'s' * (len(one.seeds) > 1)}"
    return of | {
        "measured": 100 * of["win_rate"], "measured_low": 100 * of["low"], "measured_high": 100 * of["high"],
        "low": math.nan, "high": math.nan,
        "std": own.std, "seeds": len(one.seeds), "told": choice.told, "picks": PICKS.join(choice.picks),
        "rule": choice.rule if choice.picks else "", "bias": choice.bias, "why": f"{n}{agree}{invalid}",
        "remark": "; ".join(filter(None, [*remarks, choice.told])),
    }  # fmt: skip
