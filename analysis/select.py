"""Which episodes speak for a method: the evaluation that counts, and the rule that chooses a knob setting.

A rule is declared, never implied. The paper evaluates four L_test values on 50 episodes each and leaves its rule open;
the largest of four equal arms at success 0.5 is some 7 points too high (facts/vgf.md, item 7). Here:
`fixed`     one setting, chosen before looking; every setting has its own row.
`held-out`  the setting is picked on half of the episodes and scored on the other half, both ways round.
`oracle`    the setting that scored best is picked on the very episodes it is scored on: biased upward.
"""

from __future__ import annotations

import pandas as pd

from analysis.load import Records
from analysis.statistics import generator, summarise

FIXED, HELD_OUT, ORACLE = "fixed", "held-out", "oracle"
PICKS = " / "  # between the picks for odd and for even episodes, where they differ


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the evaluation that heads a table: the final one, else the last before it."""
    final = rows[rows["phase"] == "final"]
    rows = final if len(final) else rows
    return rows[rows["step"] == rows["step"].max()]


def settings(rows: pd.DataFrame, knobs: tuple[str, ...]) -> list[str]:
    """The knob settings present, in the order of the knobs' values; [""] for a method without knobs."""
    present = rows.drop_duplicates("setting")
    return [str(name) for name in present.sort_values(list(knobs))["setting"]] if knobs else [""]


def best(rows: pd.DataFrame, order: list[str]) -> str:
    """The setting with the largest mean over seeds of seed means; the first in `order` of equals."""
    means = rows.groupby(["setting", "seed"], observed=True)["score"].mean().groupby("setting", observed=True).mean()
    return str(means.reindex(order).idxmax())


def held_out(rows: pd.DataFrame, order: list[str]) -> tuple[pd.DataFrame, tuple[str, ...]] | None:
    """Cross-fitted choice: the odd episodes of what wins on the even ones, and the even of what wins on the odd.

    Episode numbers are start states, so the halves share no evaluation noise and the score is an unbiased one of
    "choose on held-out episodes, then deploy" for *these trained seeds*; both halves use all seeds, so it does not
    speak of how the choice carries over to newly trained ones. Each episode counts once.

    Returns: the chosen rows and (setting for odd, setting for even); None if a setting misses either half.
    """
    odd = rows["episode"] % 2 == 1
    if rows[odd]["setting"].nunique() < len(order) or rows[~odd]["setting"].nunique() < len(order):
        return None
    for_odd, for_even = best(rows[~odd], order), best(rows[odd], order)
    chosen = (odd & (rows["setting"] == for_odd)) | (~odd & (rows["setting"] == for_even))
    return rows[chosen], (for_odd, for_even)


def scores(records: Records, oracle: bool = False) -> tuple[pd.DataFrame, list[str]]:
    """One row a (run, rule, setting) of the evaluation that heads the tables, and notes on it.

    Columns: suite, task, method, label, row (the name to show), rule, setting, picks, <knobs> (NaN unless the rule is
    `fixed`), status, fingerprint, phase, step, mean, std, low, high, over, seeds, episodes.
    """
    cells: list[dict[str, object]] = []
    notes = []
    for run, episodes in records.each():
        suite, task, label, knobs = run.suite, run.task, run.label, run.knobs
        rows = headline(episodes)
        first = rows.iloc[0]
        if first["phase"] != "final":
            last = f"the {first['phase']} one at step {first['step']} stands in"
            notes.append(f"{suite}/{task} {label}: no final evaluation, {last}")
        order = settings(rows, knobs)
        groups = [(FIXED, name, name, rows[rows["setting"] == name]) for name in order]
        if len(order) > 1:
            if (choice := held_out(rows, order)) is None:
                notes.append(f"{suite}/{task} {label}: no held-out row; some setting has no even or no odd episodes")
            else:
                groups.append((HELD_OUT, "", PICKS.join(dict.fromkeys(choice[1])), choice[0]))
            if oracle:
                winner = best(rows, order)
                groups.append((ORACLE, "", winner, rows[rows["setting"] == winner]))
        for rule, setting, picks, group in groups:
            row = f"{label} {setting}".strip() if rule == FIXED else f"{label} ({rule})"
            values = {knob: group[knob].iloc[0] if rule == FIXED and knob in knobs else None for knob in records.knobs}
            summary = summarise(group["score"].to_numpy(), group["seed"].to_numpy(), generator(suite, task))
            cells.append(
                {"suite": suite, "task": task, "method": first["method"], "label": label, "row": row, "rule": rule}
                | {"setting": setting, "picks": picks, **values, "status": first["status"]}
                | {"fingerprint": first["fingerprint"], "phase": first["phase"], "step": first["step"]}
                | summary._asdict()
            )
    return pd.DataFrame(cells), notes
