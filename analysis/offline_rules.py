"""Rules that choose a test-time setting by what `python -m harness.offline` computed, never by a score.

Each rule gives every setting of a seed a preference; the setting with the largest is picked, the first in the order of
the knobs' values among equals. The rules and their constants stand here before any score was looked at:

`lcb`           value - KAPPA disagreement: the largest lower confidence bound of the critics at the actions taken
`td-error`      - TD error on held-out transitions
`disagreement`  transport, where the critics disagree at the actions taken at most RATIO times as much as at the data's
                own; a setting where they disagree more is preferred to none of these, the less it exceeds the better
`fqe`           the value by fitted Q evaluation, at first states
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.records.episodes import setting_name
from analysis.records.files import RecordError
from analysis.records.runs import Run
from analysis.statistics.noise import settled

KAPPA = 1.0  # stds of the critics that `lcb` takes off
RATIO = 1.0  # of the disagreement at the data's actions, up to which `disagreement` goes
COMMAND = "python -m harness.offline with the run's options"


class Estimates(NamedTuple):
    """What is known of the settings of one run, for each of its seeds."""

    table: pd.DataFrame
    """A row a (seed, setting): seed, setting, and the columns of offline.csv."""
    seeds: np.ndarray
    """`[s]`, ascending."""


def lcb(rows: pd.DataFrame) -> np.ndarray:
    """`[k]`."""
    return (rows["value"] - KAPPA * rows["disagreement"]).to_numpy(float)


def td_error(rows: pd.DataFrame) -> np.ndarray:
    """`[k]`."""
    return -rows["td_error"].to_numpy(float)


def disagreement(rows: pd.DataFrame) -> np.ndarray:
    """`[k]`; not negative where a setting is within the ratio."""
    limit = RATIO * rows["data_disagreement"].to_numpy(float)
    excess = rows["disagreement"].to_numpy(float) - limit
    return np.where(np.isnan(excess), np.nan, np.where(excess <= 0.0, rows["transport"].to_numpy(float), -excess))


def fqe(rows: pd.DataFrame) -> np.ndarray:
    """`[k]`."""
    return rows["fqe"].to_numpy(float)


RULES: dict[str, Callable[[pd.DataFrame], np.ndarray]] = {
    "lcb": lcb, "td-error": td_error, "disagreement": disagreement, "fqe": fqe,
}  # fmt: skip
DEFAULT = "lcb"
"""What `--select offline` stands for."""


def estimates(run: Run) -> Estimates | str:
    """What was computed of a run; a line that says why nothing is known. Of seeds that cannot be read nothing is."""
    notes = list[str]()
    try:
        found = run.estimates(notes)
    except RecordError as error:
        return str(error)
    if found.empty:
        return f"no offline.csv: {COMMAND} writes it"
    names = [setting_name(dict(zip(run.knobs, row, strict=True))) for row in found[list(run.knobs)].to_numpy()]
    table = found.assign(setting=names)
    return Estimates(table, np.sort(table["seed"].unique()))


def preferences(of: Estimates, rule: str, settings: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(`[k, s]`, seeds `[s]`): what a rule makes of each of the settings, of the seeds for which it knows all of them;
    the others have said nothing that could be compared."""
    columns, seeds = list[np.ndarray](), list[int]()
    for seed in of.seeds:
        mine = of.table[of.table["seed"] == seed].set_index("setting")
        if not set(settings) <= set(mine.index):
            continue
        values = settled(RULES[rule](mine.loc[list(settings)]))
        if not np.isnan(values).any():
            columns.append(values)
            seeds.append(int(seed))
    return np.stack(columns, axis=1) if columns else np.empty((len(settings), 0)), np.array(seeds, int)
