"""Figures over the tasks of a suite: performance profiles, aggregates with intervals, who beats whom.

A method is judged by the test-time settings that other seeds choose, unless another rule is asked for. Profiles and
aggregates compare methods that have the same tasks; the matrix compares each pair on the tasks that both have. After
Agarwal et al. 2021 (arXiv 2108.13264).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import page as on
from analysis.figures.curves import BANDS, CROWD
from analysis.figures.fonts import bold
from analysis.figures.looks import BLUE, VERMILION, looks
from analysis.figures.material import Frames, Material, chosen
from analysis.figures.page import Page
from analysis.figures.style import PAD, at_least_a_point
from analysis.statistics.estimates import (
    AGGREGATES,
    LEVEL,
    coverage,
    estimates,
    generator,
    profile_of,
    resample,
    stratified_coverage,
)
from analysis.statistics.improvement import improvement_over

THRESHOLDS = 101
DIVERGING = LinearSegmentedColormap.from_list("beats", [VERMILION, "#f7f7f7", BLUE])

SeedMeans = Mapping[str, tuple[str, dict[str, np.ndarray]]]
"""Label -> (method, task -> seed means `[n]`), of one suite."""


def seed_means(material: Material) -> dict[str, SeedMeans]:
    """What counts for each run, by suite, labels in the order to show."""
    found: dict[str, dict[str, tuple[str, dict[str, np.ndarray]]]] = {}
    for run, choice in material.once(chosen):
        tasks = found.setdefault(run.suite, {}).setdefault(run.label, (run.method, {}))[1]
        tasks[run.task] = choice.means().dropna().to_numpy(float)
    return {suite: {label: of[label] for label in material.ordered(of)} for suite, of in found.items()}


def complete(of: SeedMeans, suite: str) -> tuple[SeedMeans, list[str], list[str]]:
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
    gone = [f"{label} ({len(set(of[label][1]) & set(shared))})" for label in of if label not in every]
    notes = (
        [f"{suite}: profiles and aggregates are over {len(shared)} tasks, without {', '.join(gone)}"] if gone else []
    )
    return every, shared, notes


def whole(material: Material) -> dict[str, tuple[SeedMeans, list[str]]]:
    """Suite -> (the methods that have all its tasks, those tasks); notes on those that have not."""
    found = {}
    for suite, of in material.once(seed_means).items():
        every, tasks, remarks = complete(of, suite)
        material.notes.extend(remarks)
        found[suite] = every, tasks
    return found


def of_profiles(material: Material, suite: str, task: str = "") -> Frames:
    if suite in material.once(whole):
        yield "profiles", profiles(*material.once(whole)[suite], suite)


def of_aggregates(material: Material, suite: str, task: str = "") -> Frames:
    if suite in material.once(whole):
        yield "aggregates", aggregates(*material.once(whole)[suite], suite)


def of_matrix(material: Material, suite: str, task: str = "") -> Frames:
    pairs = matrix(material.once(seed_means).get(suite, {}), suite)
    if len(pairs):
        yield "improvement", pairs


def fewest(of: SeedMeans, tasks: list[str]) -> int:
    """Seeds of the task and method with the fewest."""
    return min(len(values[task]) for _, values in of.values() for task in tasks)


def covers(shown: pd.DataFrame) -> str:
    """How often the figure's nominal 95% intervals hold the truth, at the fewest seeds there are."""
    seeds, tasks = int(shown["seeds"].min()), int(shown["tasks"].max())
    if seeds < 2:
        return "no interval over seeds where a task has one"
    percent = coverage(seeds) if tasks == 1 else stratified_coverage(seeds)
    return f"95% bootstrap intervals; of {seeds} seeds they cover {percent}%"


def banded(shown: pd.DataFrame) -> str:
    """The same of bands, or that there are none."""
    return covers(shown) if shown["label"].nunique() <= BANDS else f"no bands of more than {BANDS} methods"


def profiles(of: SeedMeans, tasks: list[str], suite: str) -> pd.DataFrame:
    """suite, label, method, tasks, seeds (the fewest), threshold, share (of runs above it), low, high (pointwise)."""
    strata = {label: [values[task] for task in tasks] for label, (_, values) in of.items()}
    runs = np.concatenate([values for one in strata.values() for values in one])
    low, high = (0.0, 100.0) if runs.min() >= 0 and runs.max() <= 100 else (runs.min(), runs.max())
    at = np.linspace(low, high, THRESHOLDS)
    frames = []
    for label, one in strata.items():
        draws = profile_of(resample(one, generator(suite, label)), at)
        tails = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
        numbers = {"threshold": at, "share": profile_of(one, at), "low": tails[0], "high": tails[1]}
        name = {"suite": suite, "label": label, "method": of[label][0], "tasks": len(tasks), "seeds": fewest(of, tasks)}
        frames.append(pd.DataFrame(name | numbers))
    return pd.concat(frames, ignore_index=True)


def draw_profiles(shown: pd.DataFrame, page: Page) -> Figure:
    """The share of runs above each score, with pointwise bands where they are few. More than CROWD methods are shown
    BANDS at a time, the best first, each panel before all the others in grey."""
    suite = str(shown["suite"].iloc[0])
    runs = {str(label): one for label, one in shown.groupby("label", observed=True, sort=False)}
    crowd = len(runs) > CROWD
    if crowd:
        order = sorted(runs, key=lambda label: -float(runs[label]["share"].mean()))
        groups = [order[i : i + BANDS] for i in range(0, len(order), BANDS)]
        figure, every = on.panels(page, len(groups), page.abreast(3, 2), 1.35, sharex=True, sharey=True)
    else:
        groups = [list(runs)]
        figure, axes = on.panel(page)
        every = [axes]
    styles = looks(dict(zip(shown["label"], shown["method"], strict=True)))
    lines = {}
    for axes, group in zip(every, groups, strict=True):
        for label in (label for label in runs if label not in group):
            axes.plot(runs[label]["threshold"], runs[label]["share"], color="0.88", lw=0.6, drawstyle="steps-post")
        for label in group:
            one, look = runs[label], styles[label]
            if len(group) <= BANDS:
                axes.fill_between(
                    one["threshold"], one["low"], one["high"], step="post", color=look.color, alpha=0.13, lw=0
                )
            (lines[label],) = axes.plot(
                one["threshold"], one["share"], ls=look.line, color=look.color, marker=look.marker, markevery=(7, 14),
                drawstyle="steps-post", mew=0,
            )  # fmt: skip
        axes.set_ylim(-0.02, 1.02)
    if crowd:
        on.shared(figure, page, f"threshold t: {page.score(suite)}", "share of runs with score > t [0-1]")
    else:
        on.label(every[0], page, f"threshold t: {page.score(suite)}", "share of runs with score > t [0-1]")
    on.legend(figure, page, list(lines.values()), list(lines))
    bands = f"best methods first, others in grey; {covers(shown)}" if crowd else banded(shown)
    on.title(figure, page, f"{suite}: performance profiles, {count(shown['tasks'])}\n{bands}")
    return figure


def aggregates(of: SeedMeans, tasks: list[str], suite: str) -> pd.DataFrame:
    """suite, label, method, tasks, seeds (the fewest), statistic, value, low, high."""
    rows = []
    for label, (method, values) in of.items():
        found = estimates([values[task] for task in tasks], generator(suite, label), list(AGGREGATES.values()))
        for name, one in zip(AGGREGATES, found, strict=True):
            about = {"suite": suite, "label": label, "method": method, "tasks": len(tasks)}
            about |= {"seeds": fewest(of, tasks), "statistic": name}
            rows.append(about | {"value": float(one.value), "low": float(one.low), "high": float(one.high)})
    return pd.DataFrame(rows)


def draw_aggregates(shown: pd.DataFrame, page: Page) -> Figure:
    """A panel an aggregate, a row a method, the best IQM on top."""
    order = shown[shown["statistic"] == "IQM"].sort_values("value")["label"].tolist()
    abreast = page.abreast(len(AGGREGATES), 2)
    names = [on.wrapped(label, 1.3) for label in order]
    centres, lines = on.stacked(names)
    height = 0.25 + 0.14 * lines
    figure, every = on.panels(page, len(AGGREGATES), abreast, height, sharey=True)
    styles = looks(dict(zip(shown["label"], shown["method"], strict=True)))
    suite = str(shown["suite"].iloc[0])
    for axes, name in zip(every, AGGREGATES, strict=True):
        for row in shown[shown["statistic"] == name].to_dict("records"):
            at, look = centres[order.index(row["label"])], styles[row["label"]]
            axes.barh(at, row["high"] - row["low"], left=row["low"], height=0.55, color=look.color, alpha=0.35, lw=0)
            axes.plot(row["value"], at, look.marker, color=look.color, ms=4, mew=0)
        axes.set_yticks(centres, names)
        axes.set_ylim(-0.6, lines - 0.4)
        text = f"{name} (less is better)" if "gap" in name else name
        axes.set_title(on.wrapped(text, page.width / abreast - 0.5), loc="left", fontsize=on.SMALL)
        axes.use_sticky_edges = False  # of the bars: markers at the ends would be cut
        axes.margins(x=0.08)
        at_least_a_point(axes, "x")
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))
        axes.grid(axis="y", visible=False)
    on.shared(figure, page, page.score(suite))
    on.title(figure, page, f"{suite}: aggregates over {count(shown['tasks'])}\n{covers(shown)}")
    return figure


def matrix(of: SeedMeans, suite: str) -> pd.DataFrame:
    """suite, label, against, tasks (that both have), seeds (the fewest), probability (that a seed of label beats one of
    against), low, high (NaN where a task has one seed)."""
    rows: list[dict[str, object]] = []
    for label in of:
        for other in of:
            both = sorted(set(of[label][1]) & set(of[other][1]))
            if label == other or not both:
                continue
            sides = [[of[one][1][task] for task in both] for one in (label, other)]
            one = improvement_over(sides[0], sides[1])
            numbers = {"probability": float(one.value), "low": float(one.low), "high": float(one.high)}
            seeds = min(len(values) for side in sides for values in side)
            about: dict[str, object] = {"suite": suite, "label": label, "against": other, "tasks": len(both)}
            rows.append(about | {"seeds": seeds} | numbers)
    return pd.DataFrame(rows)


def draw_matrix(shown: pd.DataFrame, page: Page) -> Figure:
    """P(row beats column): blue above a half, red below; bold where the interval excludes .5. Without numbers where
    they would not fit. Who beats most is on top."""
    often = shown.groupby("label", sort=False)["probability"].mean()
    names = [str(label) for label in often.sort_values(ascending=False, kind="stable").index]
    table = shown.pivot(index="label", columns="against", values="probability").reindex(index=names, columns=names)
    left = max(map(on.length, names)) + 0.35
    cell = min((page.width - left - 0.75) / len(names), 0.42)
    figure, axes = on.panel(page, cell * len(names) + left * 0.9 + 0.25)
    figure.get_layout_engine().set(w_pad=PAD + 0.02)  # type: ignore  # one pass lays square cells out to 0.02 in
    image = axes.imshow(table.to_numpy(float), cmap=DIVERGING, vmin=0, vmax=1)
    numbers = cell > on.length(".00") + 0.05
    for row in shown.to_dict("records"):
        sure = row["low"] > 0.5 or row["high"] < 0.5
        text = f"{row['probability']:.2f}" if cell > on.length("0.00") + 0.05 else f"{row['probability']:.2f}"[-3:]
        text = "1.0" if text == ".00" and row["probability"] > 0.5 else text
        axes.text(
            names.index(row["against"]), names.index(row["label"]), text if numbers else "\N{BULLET}" * sure,
            ha="center", va="center", fontsize=on.SMALL, fontweight=bold() if sure else "normal",
            color="white" if abs(row["probability"] - 0.5) > 0.38 else "0.1",
        )  # fmt: skip
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="beaten method", ylabel="method" if cell > on.LINE * on.SMALL else "")  # names say it, too
    axes.grid(visible=False)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=25)
    bar.set_label(on.wrapped("P(row beats column), ties half", 0.6 * cell * len(names) + 0.4), fontsize=on.SMALL)
    mark = "bold" if numbers else "dot"
    text = f"{shown['suite'].iloc[0]}: probability of improvement, {count(shown['tasks'])}\n"
    on.title(figure, page, text + f"{mark}: the 95% interval (Newcombe) excludes 0.5")
    return figure


def count(tasks: pd.Series) -> str:
    """ "45 tasks", "3-45 tasks a pair"."""
    least, most = int(tasks.min()), int(tasks.max())
    return f"{least}-{most} tasks a pair" if least < most else f"{least} task{'s' * (least != 1)}"
