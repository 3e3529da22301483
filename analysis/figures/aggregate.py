"""Figures over the tasks of a suite: performance profiles, aggregates with intervals, who beats whom.

A method speaks by its held-out choice of test-time knobs. Profiles and aggregates compare methods that have the same
tasks; the matrix compares each pair on the tasks that both have. After Agarwal et al. 2021 (arXiv 2108.13264).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from analysis.figures.pyplot import plt
from analysis.figures.style import BLUE, RED, at_least_a_point, finish, looks
from analysis.records.inference import UNITS, unit
from analysis.records.load import Records
from analysis.records.runs import Run
from analysis.select import Choice, Endpoint, Rule, choose
from analysis.statistics.estimates import (
    AGGREGATES,
    LEVEL,
    across,
    coverage,
    generator,
    improvement,
    profile_of,
    resample,
    stratified_coverage,
)

THRESHOLDS = 101
DIVERGING = LinearSegmentedColormap.from_list("beats", [RED, "#f7f7f7", BLUE])

Spoken = Mapping[str, tuple[str, dict[str, np.ndarray]]]
"""Label -> (method, task -> seed means `[n]`), of one suite."""


def spoken(
    records: Records, endpoint: Endpoint | None = None, rule: Rule | None = None
) -> tuple[dict[str, Spoken], list[str]]:
    """What speaks for each run, by suite, and notes on those without a choice."""
    found: dict[str, dict[str, tuple[str, dict[str, np.ndarray]]]] = {}
    notes = []
    for run, rows in records.each():
        choice = choice_of(run, rows, endpoint, rule)
        if isinstance(choice, str):
            notes.append(f"{run.suite}/{run.task} {run.label}: {choice}; not in the figures over tasks")
            continue
        tasks = found.setdefault(run.suite, {}).setdefault(run.label, (run.method, {}))[1]
        tasks[run.task] = choice.means().dropna().to_numpy(float)
    return dict(found), notes


def choice_of(run: Run, rows: pd.DataFrame, endpoint: Endpoint | None = None, rule: Rule | None = None) -> Choice | str:
    """What the rule, held-out if unset, makes of the evaluations that count; a line that says why there is nothing."""
    rows, missing = (endpoint or Endpoint()).of(run, rows)
    return missing if rows.empty else choose(run, rows, rule or Rule())


def complete(of: Spoken, suite: str) -> tuple[Spoken, list[str], list[str]]:
    """(the methods that have all tasks, those tasks in order, notes on methods left out).

    All tasks are those of the methods with most of them, so a method that was tried on a few does not shrink the rest.
    """
    most = max(len(tasks) for _, tasks in of.values())
    shared = sorted({task for _, tasks in of.values() if len(tasks) == most for task in tasks})
    every = {label: one for label, one in of.items() if set(one[1]) >= set(shared)}
    if not every:  # several methods with as many tasks, but others
        label = min(label for label, (_, tasks) in of.items() if len(tasks) == most)
        shared = sorted(of[label][1])
        every = {label: one for label, one in of.items() if set(one[1]) >= set(shared)}
    gone = [f"{label} ({len(set(of[label][1]) & set(shared))})" for label in sorted(of) if label not in every]
    notes = (
        [f"{suite}: profiles and aggregates are over {len(shared)} tasks, without {', '.join(gone)}"] if gone else []
    )
    return {label: every[label] for label in sorted(every)}, shared, notes


def covers(of: Spoken, tasks: list[str]) -> str:
    """How often the figure's nominal 95% intervals hold the truth, at the fewest seeds there are."""
    seeds = min(len(values[task]) for _, values in of.values() for task in tasks)
    if seeds < 2:
        return "one seed a task: no interval over seeds"
    percent = coverage(seeds) if len(tasks) == 1 else stratified_coverage(seeds)
    return f"95% bootstrap intervals; of {seeds} seeds they cover {percent}%"


def profiles(of: Spoken, tasks: list[str], suite: str) -> pd.DataFrame:
    """label, method, threshold, share (of runs above it), low, high (pointwise)."""
    strata = {label: [values[task] for task in tasks] for label, (_, values) in of.items()}
    runs = np.concatenate([values for one in strata.values() for values in one])
    low, high = (0.0, 100.0) if runs.min() >= 0 and runs.max() <= 100 else (runs.min(), runs.max())
    at = np.linspace(low, high, THRESHOLDS)
    frames = []
    for label, one in strata.items():
        draws = profile_of(resample(one, generator(suite, label)), at)
        tails = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
        numbers = {"threshold": at, "share": profile_of(one, at), "low": tails[0], "high": tails[1]}
        frames.append(pd.DataFrame({"suite": suite, "label": label, "method": of[label][0]} | numbers))
    return pd.concat(frames, ignore_index=True)


def draw_profiles(shown: pd.DataFrame, tasks: int, note: str, units: Mapping[str, str] = UNITS) -> Figure:
    """The share of runs above each score, with pointwise bands."""
    figure, axes = plt.subplots(figsize=(5.4, 3.8), layout="constrained")
    styles = looks(dict(zip(shown["label"], shown["method"], strict=True)))
    handles, names = [], []
    for label, one in shown.groupby("label", observed=True, sort=True):
        look = styles[str(label)]
        axes.fill_between(one["threshold"], one["low"], one["high"], step="post", color=look.color, alpha=0.15, lw=0)
        handles += axes.plot(
            one["threshold"], one["share"], look.line, color=look.color, marker=look.marker, markevery=(7, 14),
            drawstyle="steps-post", mew=0,
        )  # fmt: skip
        names.append(str(label))
    suite = str(shown["suite"].iloc[0])
    axes.set(
        xlabel=f"threshold t: {unit(suite, units)}", ylabel="share of runs with score > t [0-1]", ylim=(-0.02, 1.02)
    )
    return finish(figure, f"{suite}: performance profiles, {_count(tasks)}\n{note}", handles, names)


def aggregates(of: Spoken, tasks: list[str], suite: str) -> pd.DataFrame:
    """label, method, statistic, value, low, high."""
    rows = []
    for label, (method, values) in of.items():
        for name, statistic in AGGREGATES.items():
            one = across([values[task] for task in tasks], generator(suite, label), statistic)
            name_ = {"suite": suite, "label": label, "method": method, "statistic": name}
            rows.append(name_ | {"value": float(one.value), "low": float(one.low), "high": float(one.high)})
    return pd.DataFrame(rows)


def draw_aggregates(shown: pd.DataFrame, tasks: int, note: str, units: Mapping[str, str] = UNITS) -> Figure:
    """A panel an aggregate, a row a method, the best IQM on top."""
    order = shown[shown["statistic"] == "IQM"].sort_values("value")["label"].tolist()
    figure, panels = plt.subplots(
        1, len(AGGREGATES), figsize=(9.6, 1.35 + 0.26 * len(order)), sharey=True, layout="constrained"
    )
    styles = looks(dict(zip(shown["label"], shown["method"], strict=True)))
    suite = str(shown["suite"].iloc[0])
    for axes, name in zip(panels, AGGREGATES, strict=True):
        for _, row in shown[shown["statistic"] == name].iterrows():
            at, look = order.index(row["label"]), styles[row["label"]]
            axes.barh(at, row["high"] - row["low"], left=row["low"], height=0.55, color=look.color, alpha=0.35, lw=0)
            axes.plot(row["value"], at, look.marker, color=look.color, ms=5, mew=0)
        axes.set_yticks(range(len(order)), order)
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.set_title(f"{name}{' (less is better)' if 'gap' in name else ''}", fontsize=9, loc="left")
        axes.use_sticky_edges = False  # of the bars: markers at the ends would be cut
        axes.margins(x=0.08)
        at_least_a_point(axes, "x")
        axes.grid(axis="y", visible=False)
    figure.supxlabel(unit(suite, units), fontsize=9)
    figure.suptitle(f"{suite}: aggregates over {_count(tasks)}\n{note}", x=0.01, ha="left", fontsize=10)
    return figure


def matrix(of: Spoken, suite: str) -> pd.DataFrame:
    """label, against, tasks (that both have), probability (that a seed of label beats one of against), low, high (NaN
    where a task has one seed)."""
    rows: list[dict[str, object]] = []
    for label in sorted(of):
        for other in sorted(of):
            both = sorted(set(of[label][1]) & set(of[other][1]))
            if label == other or not both:
                continue
            sides = [[of[one][1][task] for task in both] for one in (label, other)]
            one = improvement(sides[0], sides[1], generator(suite, *sorted((label, other))))
            numbers = {"probability": float(one.value), "low": float(one.low), "high": float(one.high)}
            if min(len(values) for side in sides for values in side) < 2:  # nothing to resample
                numbers |= dict.fromkeys(("low", "high"), float("nan"))
            rows.append({"suite": suite, "label": label, "against": other, "tasks": len(both)} | numbers)
    return pd.DataFrame(rows)


def draw_matrix(shown: pd.DataFrame, note: str) -> Figure:
    """P(row beats column): blue above a half, red below; bold where the interval excludes .5."""
    names = sorted(set(shown["label"]) | set(shown["against"]))
    table = shown.pivot(index="label", columns="against", values="probability").reindex(index=names, columns=names)
    side = 1.4 + 0.42 * len(names)
    figure, axes = plt.subplots(figsize=(max(side + 1.2, 6.2), side + 0.5), layout="constrained")
    image = axes.imshow(table.to_numpy(float), cmap=DIVERGING, vmin=0, vmax=1)
    for row in shown.to_dict("records"):
        sure = row["low"] > 0.5 or row["high"] < 0.5
        axes.text(
            names.index(row["against"]), names.index(row["label"]), f"{row['probability']:.2f}", ha="center",
            va="center", fontsize=7, fontweight="bold" if sure else "normal",
            color="white" if abs(row["probability"] - 0.5) > 0.38 else "0.1",
        )  # fmt: skip
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="beaten method", ylabel="method")
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, shrink=0.7, label="P(row beats column) [0-1], ties half")
    suite, tasks = shown["suite"].iloc[0], sorted(set(shown["tasks"]))
    title = f"{suite}: probability of improvement, {_count(tasks[0], tasks[-1])}\n"
    title += f"bold: the interval excludes 0.5; {note}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


def _count(least: int, most: int | None = None) -> str:
    if most not in (None, least):
        return f"{least}-{most} tasks a pair"
    return f"{least} task{'s' * (least != 1)}"
