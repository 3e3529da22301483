"""Over the steps of a flow: scores over L_train (the VGF paper's Figure 4), over L_test of all tasks at once (its
Figure 5), and how far so many steps carry the particles, against the certified bound. Which knob counts steps of a
flow, a method declares (`inference.path_of`); L_test is VGF's."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.choices import FIXED, arms, average, settings
from analysis.figures import page as on
from analysis.figures.curves import SETTINGS, task_name
from analysis.figures.knobs import scale
from analysis.figures.looks import looks, shade
from analysis.figures.material import Frames, Material, by_task, cells, picked
from analysis.figures.page import Page
from analysis.figures.style import at_least_a_point
from analysis.records.files import RecordError
from analysis.records.inference import path_of
from analysis.records.load import Records
from analysis.records.runs import Run
from analysis.select import Endpoint
from analysis.statistics.estimates import LEVEL, RESAMPLES, generator, mean_of, resample, summarise
from analysis.statistics.transport import Flow, mmd2, transport_bound
from core.errors import BadInput, reason

TRAIN = "train_flow_steps"  # L_train
NEAR_ZERO = 1.0  # points: a task whose mean score is below has no scale to be normalised by


def trained(records: Records, cells: pd.DataFrame, picked: pd.DataFrame) -> pd.DataFrame:
    """Rows of `select.scores` of runs that differ in L_train and in nothing else, with the columns knob (the steps of
    their flow at test time), L_train and line.

    Rows: each test-time setting, and of several what is `picked` (line "... new-seeds L_test"); none if there are no
    such runs.
    """
    choices = picked[picked["rule"] != FIXED] if len(picked) else picked
    cells = pd.concat([cells[cells["rule"] == FIXED], choices], ignore_index=True) if len(cells) else cells
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in records.runs:
        if run.number(TRAIN) is not None and path_of(run):
            rest = json.dumps({k: v for k, v in run.settings.items() if k != TRAIN}, sort_keys=True, default=str)
            data = json.dumps(
                [run.meta.get("dataset"), run.seeds if run.old else None, run.online], sort_keys=True, default=str
            )
            groups[run.suite, run.task, run.method + run.mark, rest, data].append(run)
    found = []
    for runs in groups.values():
        levels = {run.fingerprint: run.number(TRAIN) or 0.0 for run in runs}
        rows = cells[cells["fingerprint"].isin(levels) & (cells["suite"] == runs[0].suite)]
        rows = rows[rows["task"] == runs[0].task]
        knob = path_of(runs[0])
        rows = rows.assign(knob=knob, L_train=rows["fingerprint"].map(levels))
        if rows["L_train"].nunique() > 1:
            names = rows["setting"].where(rows["rule"] == FIXED, rows["rule"] + f" {knob}")
            found.append(rows.assign(line=[f"{runs[0].method}{runs[0].mark} {name}".strip() for name in names]))
    return pd.concat(found).sort_values(["line", "L_train"], ignore_index=True) if found else cells.iloc[:0]


def draw_trained(points: pd.DataFrame, page: Page) -> Figure:
    """Score over L_train of one task: what the rule picks bold with its interval, each L_test a shade."""
    figure, axes = on.panel(page)
    methods = list(points["method"].drop_duplicates())
    styles = looks({method: method for method in methods})
    handles: dict[str, Any] = {}
    for method in methods:
        mine = points[points["method"] == method]
        order = list(mine.loc[mine["rule"] == FIXED].sort_values(str(mine["knob"].iloc[0]))["line"].drop_duplicates())
        kept = (
            [order[i] for i in np.unique(np.linspace(0, len(order) - 1, SETTINGS).round().astype(int))] if order else []
        )
        chosen = [name for name in mine["line"].unique() if name not in order]
        for name in [*kept, *chosen]:
            line = mine[mine["line"] == name]
            bold = name in chosen or len(order) == 1
            color = styles[method].color if bold else shade(styles[method].color, kept.index(name), len(kept))
            if bold:
                axes.fill_between(line["L_train"], line["low"], line["high"], color=color, alpha=0.2, lw=0)
            (handles[name],) = axes.plot(
                line["L_train"], line["mean"], "-" if bold else ":", color=color, marker=styles[method].marker,
                lw=1.7 if bold else 0.9, ms=4 if bold else 2.6, mew=0,
            )  # fmt: skip
    scale(axes, np.sort(points["L_train"].unique()))
    on.label(axes, page, "L_train, flow steps in training [steps]", page.score(points["suite"].iloc[0]))
    at_least_a_point(axes)
    on.legend(figure, page, list(handles.values()), list(handles))
    on.title(figure, page, f"{task_name(points)}: score over L_train, all else equal")
    return figure


def normalised(records: Records, endpoint: Endpoint | None = None) -> tuple[pd.DataFrame, list[str]]:
    """Score over the steps of a flow (L_test) in percent of the task's own mean over all of them: each task, and their
    mean.

    Columns: suite, knob, method, label, task ("" for the mean over tasks), tasks, <knob>, value, low, high (of the
    mean: from seeds resampled within tasks). The divisor is one for a whole curve and no maximum, so it favours no
    number of steps. Runs with other knobs open, or a mean below NEAR_ZERO points, are left out; tasks of a mean have
    the same numbers of steps.
    """
    found: dict[tuple[str, str, str, str], dict[str, tuple[np.ndarray, np.ndarray]]] = defaultdict(dict)
    notes = []
    for run, rows in records.each():
        knob = path_of(run)
        if knob is None or run.knobs != (knob,) or run.online:
            continue
        rows, _ = (endpoint or Endpoint()).of(run, rows)
        if rows.empty:
            continue
        of = arms(rows, settings(rows, run.knobs))
        means = average(of.scores, 2)  # [k, s]
        means = means[:, ~np.isnan(means).any(axis=0)]
        if len(of.settings) < 2 or not means.size:
            continue
        if means.mean() < NEAR_ZERO:
            notes.append(
                f"{run.suite}/{run.task} {run.label}: a mean of {means.mean():.1f} has no scale, not normalised"
            )
            continue
        values = np.sort(rows[knob].unique())
        found[run.suite, knob, run.method, run.label][run.task] = values, 100 * means / means.mean()
    points: list[dict[str, object]] = []
    for (suite, knob, method, label), tasks in found.items():
        name = {"suite": suite, "knob": knob, "method": method, "label": label}
        grids = [tuple(values) for values, _ in tasks.values()]
        common = max(set(grids), key=lambda grid: (grids.count(grid), grid))
        strata = [curve.T for values, curve in tasks.values() if tuple(values) == common]  # [s, k] each
        rng = generator(suite, label)
        draws = np.stack(
            [mean_of(resample([task[:, k] for task in strata], rng, RESAMPLES)) for k in range(len(common))]
        )
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
        for k, value in enumerate(common):
            numbers = {"value": mean_of(strata)[k], "low": low[k], "high": high[k]}
            points.append(name | {"task": "", "tasks": len(strata), knob: value} | numbers)
        for task, (values, curve) in tasks.items():
            steps = zip(values, curve.mean(axis=1), strict=True)
            points += [name | {"task": task, "tasks": 1, knob: value, "value": mean} for value, mean in steps]
    return pd.DataFrame(points), notes


def draw_normalised(points: pd.DataFrame, page: Page) -> Figure:
    """All tasks of a suite in one panel, over one knob: each task thin, their mean bold with its band."""
    knob = str(points["knob"].iloc[0])
    figure, axes = on.panel(page)
    styles = looks(dict(zip(points["label"], points["method"], strict=True)))
    handles: dict[str, Any] = {}
    for label, mine in points.groupby("label", observed=True, sort=False):
        look, over = styles[str(label)], mine[mine["task"] == ""]
        for _, line in mine[mine["task"] != ""].groupby("task", observed=True):
            axes.plot(line[knob], line["value"], ls=look.line, color=look.color, alpha=0.35, lw=0.5)
        axes.fill_between(
            over[knob], over["low"].astype(float), over["high"].astype(float), color=look.color, alpha=0.2, lw=0
        )
        (handles[f"{label}, mean of {over['tasks'].iloc[0]}"],) = axes.plot(
            over[knob], over["value"], ls=look.line, color=look.color, marker=look.marker, lw=1.8, ms=4, mew=0
        )
    scale(axes, np.sort(points[knob].unique()))
    axes.axhline(100, color="0.5", lw=0.7)
    on.label(axes, page, page.axes.get(knob, knob), f"score [% of the task's mean over {knob}]")
    on.legend(figure, page, list(handles.values()), list(handles))
    on.title(figure, page, f"{points['suite'].iloc[0]}: {knob} scaling, each task thin")
    return figure


def _normalised(material: Material) -> pd.DataFrame:
    found, notes = normalised(material.records)
    material.notes.extend(notes)
    return found


def of_normalised(material: Material, suite: str, task: str = "") -> Frames:
    points = material.here(_normalised, suite)
    for knob, mine in points.groupby("knob") if len(points) else ():
        yield f"scaling-{knob}", mine


@by_task
def _trained(material: Material) -> pd.DataFrame:
    return trained(material.records, material.once(cells), material.once(picked))


def of_trained(material: Material, suite: str, task: str) -> Frames:
    if len(points := material.here(_trained, suite, task)):
        yield "l-train", points


@by_task
def _carried(material: Material) -> pd.DataFrame:
    found, notes = carried(material.records)
    material.notes.extend(notes)
    return found


def of_carried(material: Material, suite: str, task: str) -> Frames:
    points = material.here(_carried, suite, task)
    for knob, mine in points.groupby("knob", sort=False) if len(points) else ():
        yield "transport" if len(mine) == len(points) else f"transport-{knob}", mine


def carried(records: Records) -> tuple[pd.DataFrame, list[str]]:
    """How far the steps of a flow (L_test) move the particles: suite, task, knob, method, label, <knob>, the Summary of
    MMD^2 to where they started (mean over observations, units are seeds), largest (of any seed and observation), bound
    (certified; NaN where nothing is) and sigma (of the MMD's kernel: the run's own). Notes on runs that are not shown.
    """
    points: list[dict[str, object]] = []
    notes: list[str] = []
    for run in sorted(records.runs, key=lambda run: records.position(run.label)):
        knob = path_of(run)
        if knob is None or run.knobs != (knob,):
            continue
        try:
            arrays = run.candidates(notes)
            if arrays is None:
                continue
            levels, particles = arrays[knob], arrays["candidates"]
            whole = levels.ndim == 1 and particles.ndim == 5 and particles.shape[1] == len(levels) and particles.size
            if not whole or not arrays["valid"].all() or not np.isfinite(particles).all():
                raise RecordError(f"{run.folder / 'candidates.npz'}: not the particles of {len(levels)} settings")
        except (BadInput, KeyError) as error:
            notes.append(f"no MMD of {run.name}: {reason(error)}")
            continue
        if 0 not in levels or len(levels) < 2:
            notes.append(f"no MMD of {run.name}: it was not evaluated at {knob}=0, where particles start")
            continue
        start = particles[:, int(np.flatnonzero(levels == 0)[0])].astype(float)
        flow, why = flow_of(run)
        if why:
            notes.append(f"no bound for {run.name}: {why}")
        for k in np.argsort(levels):
            apart = np.maximum(mmd2(start, particles[:, k].astype(float), flow.sigma), 0.0)  # [s, p]
            units = np.repeat(np.arange(apart.shape[0]), apart.shape[1])
            numbers = summarise(apart.ravel(), units, generator(run.suite, run.task))._asdict()
            numbers.pop("episodes")
            name = {"suite": run.suite, "task": run.task, "knob": knob, "method": run.method, "label": run.label}
            bound = np.nan
            if not why:
                try:
                    bound = transport_bound(flow, int(levels[k]), particles.shape[-1])
                except ValueError as error:
                    notes.append(f"no bound for {run.name}: {error}")
                    why = str(error)
            points.append(
                name | {knob: float(levels[k])} | numbers
                | {"observations": apart.shape[1], "largest": apart.max(), "bound": bound, "sigma": flow.sigma}
            )  # fmt: skip
    return pd.DataFrame(points), notes


def flow_of(run: Run) -> tuple[Flow, str]:
    """The flow of a run's settings, and what is missing in them ("" if nothing)."""
    names = {
        "step_size": "step_size", "optimizer": "particle_optimizer", "maxent": "maxent", "alpha": "alpha",
        "kernel": "kernel", "bandwidth": "bandwidth", "sigma": "sigma", "bandwidth_gradient": "bandwidth_gradient",
    }  # fmt: skip
    kinds = {ours: type(getattr(Flow(), field)) for field, ours in names.items()}
    absent = [ours for ours, kind in kinds.items() if not _is(run.settings.get(ours), kind)]
    values = {field: run.settings[ours] for field, ours in names.items() if ours not in absent}
    if values.get("sigma", 1.0) <= 0:
        absent.append("sigma")
        values.pop("sigma")
    return Flow(**values), f"run.json has no fitting {', '.join(absent)}" if absent else ""


def _is(value: object, kind: type) -> bool:
    """Whether a setting is of that kind: a float may be a whole number, and is finite."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind)


def draw_carried(points: pd.DataFrame, page: Page) -> Figure:
    """MMD^2 over the steps of the flow, log scale, from the first on: mean with its band, the largest seen as dashes,
    the certified bound dotted, each method's in its colour."""
    knob = str(points["knob"].iloc[0])
    figure, axes = on.panel(page)
    styles = looks(dict(zip(points["label"], points["method"], strict=True)))
    handles: dict[str, Any] = {}
    bounds = 0
    for label, line in points[points[knob] > 0].groupby("label", observed=True, sort=False):
        look = styles[str(label)]
        axes.fill_between(line[knob], line["low"], line["high"], color=look.color, alpha=0.2, lw=0)
        (handles[str(label)],) = axes.plot(
            line[knob], line["mean"], ls=look.line, color=look.color, marker=look.marker, mew=0
        )
        axes.plot(line[knob], line["largest"], ls="none", color=look.color, marker="_", ms=6, mew=1.0)
        if line["bound"].notna().any():  # equal bounds show in each other's gaps
            axes.plot(line[knob], line["bound"], color=look.color, ls=(1.5 * bounds, (1.5, 3)), lw=1.4)
            bounds += 1
    axes.set_yscale("log")
    axes.axhline(2, color="0.5", lw=0.7)
    steps = np.sort(points.loc[points[knob] > 0, knob].unique())
    if len(steps) > 1:
        scale(axes, steps)
    on.label(axes, page, page.axes.get(knob, knob), "MMD² to where particles start [-, at most 2]")
    handles["largest seen"] = Line2D([], [], ls="none", color="0.3", marker="_", ms=6, mew=1.0)
    if bounds:
        handles["certified bound"] = Line2D([], [], color="0.3", ls=(0, (1.5, 3)), lw=1.4)
    on.legend(figure, page, list(handles.values()), list(handles))
    sigmas = " / ".join(f"{sigma:g}" for sigma in sorted(set(points["sigma"])))
    on.title(figure, page, f"{task_name(points)}: transport, measured (mean, 95%) and certified (RBF, sigma {sigmas})")
    return figure
