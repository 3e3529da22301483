"""Which evaluations of a run count: those of its own phase, and of these the last ones, some steps, or all of them."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.records.episodes import PHASES
from analysis.records.files import RecordError, shown
from analysis.records.load import Records
from analysis.records.runs import Run

WORDS = "last, last-10, steps=800k,900k,1m or area"


@dataclass(frozen=True)
class Endpoint:
    """Which evaluations count: the `last` so many, those at `steps`, or by `area` all of the phase."""

    last: int = 1
    steps: tuple[int, ...] = ()
    area: bool = False

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """`last`, `last-10`, `steps=800k,900k,1m` or `area`. Raises: RecordError naming anything else."""
        number = r"\d{1,18}(?:\.\d{1,18})?[km]?"
        if text == "area":
            return cls(area=True)
        if match := re.fullmatch(r"last(?:-(\d{1,18}))?", text, re.ASCII):
            if int(match[1] or 1) > 0:
                return cls(last=int(match[1] or 1))
        elif match := re.fullmatch(rf"steps=({number}(?:,{number})*)", text.lower(), re.ASCII):
            units = {"k": 1e3, "m": 1e6}
            steps = [float(one.rstrip("km")) * units.get(one[-1], 1) for one in match[1].split(",")]
            return cls(steps=tuple(sorted({round(step) for step in steps})))
        raise RecordError(f"--endpoint {shown(text)} is none of: {WORDS.replace(' or ', ', ')}")

    def __str__(self) -> str:
        if self.area:
            return "area"
        if self.steps:
            return f"steps={','.join(map(str, self.steps))}"
        return f"last-{self.last}" if self.last > 1 else "last"

    @property
    def meaning(self) -> str:
        """What a score by it is, in words."""
        if self.area:
            return "the trapezoid mean of a seed's score over the steps of the phase"
        if self.steps or self.last > 1:
            return "the mean of a seed's score over these evaluations"
        return "a seed's score at the last evaluation"

    def of(self, run: Run, rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
        """(the rows that count, what is missing or "") of a run's complete evaluations: of its own phase alone, but
        that the area of an online run begins at the handover."""
        mine = own(run, rows, handover=self.area)
        if mine.empty:
            return mine, f"no evaluation in the {'online' if run.online else 'offline'} phase yet"
        return self(mine)

    def __call__(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
        """(the rows that count, what is missing or "") of some complete evaluations. Where several count, a seed that
        has fewer of them than others is not in it: its mean would be one over other steps."""
        if rows.empty:  # a run that began online has none before
            return rows, "no evaluation"
        if self.area:
            return area(rows)
        if self.steps:
            present = set(rows["step"].unique().tolist())
            absent = [step for step in self.steps if step not in present]
            missing = f"no evaluation at step {', '.join(map(str, absent))}" if absent else ""
            return _whole(rows[rows["step"].isin(self.steps)]), missing
        if self.last == 1:
            return headline(rows), ""
        when = rows["step"].to_numpy() * len(PHASES) + rows["phase"].cat.codes.to_numpy()
        present_at = np.unique(when)
        found = min(len(present_at), self.last)
        missing = f"{found} of the last {self.last} evaluations" if found < self.last else ""
        return _whole(rows[when >= present_at[-found]]), missing


def own(run: Run, rows: pd.DataFrame, handover: bool = False) -> pd.DataFrame:
    """The evaluations of a run's own phase: of one that goes on online those since (`handover`: and at) the end of the
    offline run, whose rows stand before them; of others all."""
    if not run.online:
        return offline(rows)
    before = (rows["phase"] == "offline").to_numpy()
    if before.all() or not (handover and before.any()):
        return rows[~before]
    step = rows["step"].to_numpy()
    return rows[~before | (step == step[before].max())]


def offline(rows: pd.DataFrame) -> pd.DataFrame:
    """What counts for an offline result: of a run that went online, the evaluations before that."""
    return rows[rows["phase"] == "offline"] if (rows["phase"] == "online").any() else rows


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the evaluation that heads a table: the final one, else the last before it."""
    kept, step = (rows["phase"] == "final").to_numpy(), rows["step"].to_numpy()
    if not kept.any():
        kept = np.ones(len(rows), bool)
    return rows[kept & (step == step[kept].max())]


def windows(records: Records, endpoint: Endpoint) -> list[str]:
    """A note on each task (and phase) whose areas are not all over the same steps."""
    found: dict[tuple[str, str, bool], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for run, rows in records.each() if endpoint.area else ():
        steps = own(run, rows, handover=True)["step"]
        if len(steps) and steps.min() < steps.max():
            found[run.suite, run.task, run.online][f"{steps.min()}-{steps.max()}"].append(run.label)
    return [f"{suite}/{task}: areas over other steps are not alike: "
            + "; ".join(f"{steps} of {', '.join(names)}" for steps, names in of.items())
            for (suite, task, _), of in found.items() if len(of) > 1]  # fmt: skip


def area(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """(the rows of the last evaluation with the area under the curve as their scores, what is missing or "").

    The area is the trapezoid mean over steps, sum of (t[i+1] - t[i]) (s[i] + s[i+1]) / 2 over t[-1] - t[0], of each
    seed, setting and episode, so that it is a score like others: its mean over episodes is the area of the mean. Seeds
    without all the evaluations that others have are not in it, nor episodes that an evaluation lacks.
    """
    key = ["seed", "setting", "episode"]
    if rows.empty:
        return rows, ""
    rows = rows.drop_duplicates([*key, "step"], keep="last")
    grids = {seed: tuple(np.unique(one)) for seed, one in rows.groupby("seed")["step"]}
    grid = max(grids.values(), key=lambda one: (len(one), sum(one == other for other in grids.values())))
    if len(grid) < 2:
        return rows.iloc[:0], "one evaluation, an area takes two"
    rows = rows[rows["seed"].isin([seed for seed, one in grids.items() if one == grid])]
    apart = np.diff(grid)
    weights = (np.append(apart, 0) + np.append(0, apart)) / (2 * (grid[-1] - grid[0]))
    weighed = rows["score"].to_numpy(float) * weights[np.searchsorted(grid, rows["step"].to_numpy())]
    found = rows[key].assign(sum=weighed).groupby(key, observed=True)["sum"].agg(["sum", "size"])
    ends = rows[rows["step"] == grid[-1]]
    at = found.reindex(pd.MultiIndex.from_frame(ends[key]))
    whole = (at["size"] == len(grid)).to_numpy()
    lost = sorted(set(rows["setting"]) - set(ends["setting"][whole]))
    missing = f"no area of {', '.join(lost)}, which some evaluations lack" if lost else ""
    return ends.assign(score=at["sum"].to_numpy())[whole], missing


def _whole(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the seeds that have as many evaluations as any."""
    each = rows[["seed", "step", "phase"]].drop_duplicates()["seed"].value_counts()
    few = each.index[each < each.max()]
    return rows[~rows["seed"].isin(few)] if len(few) else rows
