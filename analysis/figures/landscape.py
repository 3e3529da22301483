"""The picture of a 2-D bandit (after the VGF paper's Figure 2): its true reward, its data, and where each method acts.

Every method with knobs is shown at the setting that is picked by the rule asked for (by most seeds, where these
differ), else at the largest; its title says which. Particle paths lead up to that setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.choices import FIXED
from analysis.figures import page as on
from analysis.figures.looks import looks
from analysis.figures.material import Frames, Material, picked
from analysis.figures.material import cells as scored
from analysis.figures.page import Page
from analysis.figures.style import TERRAIN
from analysis.output import short
from analysis.records.episodes import setting_name
from analysis.records.files import RecordError
from analysis.records.inference import path_of
from analysis.records.load import Records
from analysis.records.runs import Run
from analysis.select import PICKS
from core.errors import BadInput

POINTS = 400  # data points drawn
ACTIONS = 200  # actions drawn of a method
MANY = 24  # panels
SETS, PARTICLES = 5, 5  # sets of particles (a seed at an observation) whose paths are drawn, and particles of each
STAR, INK = "#ffd92f", "0.15"
SHAPES = {"grid_x": 1, "grid_y": 1, "true_reward": 2, "data_actions": 2, "data_reward": 1, "modes": 2}

Arrays = Mapping[str, np.ndarray]


def shown(
    records: Records, suite: str, task: str, cells: pd.DataFrame, picked: pd.DataFrame
) -> tuple[pd.DataFrame, list[str]] | None:
    """What the picture of a task shows, and notes on runs that are not in it; None if the task has no landscape.

    Columns: suite, task, panel ("data" or the run's label), method, title, kind (true_reward | data | mode | action |
    path), trace (one number a particle), step (the knob's value along a path), x, y, score (of the point, where the
    records say).

    Raises: RecordError if the landscape is not one of 2-D actions.
    """
    land = records.landscape(suite, task)
    if land is None:
        return None
    path = records.root / "tasks" / suite / f"{task}.npz"
    for name, ndim in SHAPES.items():
        if name not in land or land[name].ndim != ndim:
            raise RecordError(f"{path}: {name} is missing or has not {ndim} dimensions")
    if min(land["true_reward"].shape) < 2 or not all(np.isfinite(land[name]).all() for name in SHAPES):
        raise RecordError(f"{path}: no grid of finite numbers")
    if land["data_reward"].shape != land["data_actions"].shape[:1] or land["modes"].shape[1] != 2:
        raise RecordError(f"{path}: not one reward an action, or not one place a mode")
    if land["data_actions"].shape[1] != 2 or land["true_reward"].shape != (len(land["grid_y"]), len(land["grid_x"])):
        raise RecordError(f"{path}: not a landscape of 2-D actions")
    frames, notes = [_data_panel(land)], list[str]()
    for run in sorted(records.runs, key=lambda run: records.position(run.label)):
        if (run.suite, run.task) != (suite, task):
            continue
        try:
            panel = _method_panel(run, _of(run, cells), _of(run, picked), notes)
        except BadInput as error:
            notes.append(f"left out of the picture: {error}")
            continue
        if panel is None:
            notes.append(f"left out of the picture: {run.name} has no candidates.npz")
        else:
            frames.append(panel)
    return pd.concat(frames, ignore_index=True).assign(suite=suite, task=task), notes


def of_task(material: Material, suite: str, task: str) -> Frames:
    try:
        picture = shown(material.records, suite, task, *(material.here(what, suite, task) for what in (scored, picked)))
    except BadInput as error:
        material.notes.append(f"no landscape: {error}")
        return
    if picture is not None:
        material.notes.extend(picture[1])
        yield "landscape", picture[0]


def draw(points: pd.DataFrame, page: Page) -> Figure:
    """The picture of `shown`: a panel for the data and one a method, all over the same contours."""
    suite, task = points[["suite", "task"]].iloc[0]
    titles = points.drop_duplicates("panel").set_index("panel")[["method", "title"]]
    many = len(titles) > MANY  # of which a page holds as many rows as this makes
    most = page.abreast(5 if many else 4, 2)
    columns = most if len(titles) > most else len(titles)
    side = min((page.width - 0.35 - 0.55) / columns, 1.9)
    figure, every = on.panels(page, len(titles), columns, side + (0.15 if many else 0.32), sharex=True, sharey=True)
    styles = looks({str(panel): str(row["method"]) for panel, row in titles.iterrows() if row["method"]})
    surface = points[points["kind"] == "true_reward"].pivot(index="y", columns="x", values="score")
    modes = points[points["kind"] == "mode"]
    ends = float(surface.min().min()), float(surface.max().max())
    levels = MaxNLocator(10, steps=[1, 2, 5, 10]).tick_values(*ends)
    for axes, (panel, row) in zip(every, titles.iterrows(), strict=True):
        filled = axes.contourf(surface.columns, surface.index, surface, levels=levels, cmap=TERRAIN)
        axes.contour(surface.columns, surface.index, surface, levels=levels, colors="white", linewidths=0.25)
        part = points[points["panel"] == panel]
        if row["method"]:
            _draw_method(axes, part, styles[str(panel)].color)
        else:
            data = part[part["kind"] == "data"]
            axes.scatter(data["x"], data["y"], s=2.5, color="white", edgecolors="0.35", linewidths=0.3)
        star: dict[str, Any] = {"s": 20 if many else 45, "marker": "*", "color": STAR, "edgecolors": "black", "lw": 0.5}
        axes.scatter(modes["x"], modes["y"], zorder=2.5, **star)
        axes.set_title("\n".join(on.wrapped(line, side + 0.08) for line in row["title"].split("\n")), fontsize=on.SMALL)
        axes.set(aspect="equal", xlim=_ends(surface.columns), ylim=_ends(surface.index))
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2.5, 5, 10]))
        axes.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2.5, 5, 10]))
        axes.grid(False)
    of = "; scores, with 95% intervals, are of the setting above each"
    knobs = of if titles["title"].str.contains("=").any() else ""
    bar = figure.colorbar(filled, ax=every, shrink=0.8, aspect=35)
    bar.set_label("true reward (score)", fontsize=on.SMALL)
    on.shared(figure, page, "action 1", "action 2")
    handles = _legend(points)
    on.legend(figure, page, handles, [str(one.get_label()) for one in handles])
    name = task if suite == task else f"{suite}: {short(task)}"
    on.title(figure, page, f"{name}: true reward, data and actions{knobs}")
    return figure


def _data_panel(land: Arrays) -> pd.DataFrame:
    x, y = np.meshgrid(land["grid_x"], land["grid_y"])
    at = _spread(len(land["data_actions"]), POINTS)
    frames = [
        _points("true_reward", np.stack([x.ravel(), y.ravel()], axis=-1), score=land["true_reward"].ravel()),
        _points("data", land["data_actions"][at], score=land["data_reward"][at]),
        _points("mode", land["modes"]),
    ]
    title = f"data\n{land['data_reward'].mean():.1f} (mean of {len(land['data_reward'])})"
    return pd.concat(frames, ignore_index=True).assign(panel="data", method="", title=title)


def _points(kind: str, places: np.ndarray, **columns: object) -> pd.DataFrame:
    """Rows of one kind at `places [n, 2]`."""
    return pd.DataFrame({"kind": kind, "x": places[:, 0], "y": places[:, 1], **columns})


def _of(run: Run, rows: pd.DataFrame) -> pd.DataFrame:
    if rows.empty:
        return rows
    return rows[(rows["suite"] == run.suite) & (rows["task"] == run.task) & (rows["label"] == run.label)]


def _method_panel(run: Run, mine: pd.DataFrame, picked: pd.DataFrame, notes: list[str]) -> pd.DataFrame | None:
    """Actions at the setting shown, and particle paths where there are some; None without candidates.npz."""
    arrays = run.candidates(notes)
    if arrays is None:
        return None
    path = run.folder / "candidates.npz"
    if missing := {"actions", "candidates", "valid", *run.knobs} - set(arrays):
        raise RecordError(f"{path}: no {', '.join(sorted(missing))}")
    actions, candidates = arrays["actions"], arrays["candidates"]
    if actions.shape[3:] != (2,) or candidates.shape != (*arrays["valid"].shape, 2):
        raise RecordError(f"{path}: no 2-D candidates and actions, but {candidates.shape} and {actions.shape}")
    if not np.isfinite(actions).all() or not np.isfinite(candidates[arrays["valid"].astype(bool)]).all():
        raise RecordError(f"{path}: actions that are not finite")
    if candidates.shape[:3] != actions.shape[:3]:
        raise RecordError(f"{path}: candidates {candidates.shape} do not fit actions {actions.shape}")
    if not actions.size or any(arrays[knob].shape != actions.shape[1:2] for knob in run.knobs):
        raise RecordError(f"{path}: no knob settings, or not one value each")
    grid = [{knob: float(arrays[knob][k]) for knob in run.knobs} for k in range(actions.shape[1])]
    last = _setting_shown(grid, picked)
    taken = actions[:, last].reshape(-1, 2)
    taken = taken[_spread(len(taken), ACTIONS)]
    frames = [_points("action", taken), *_paths(run, arrays, grid, last)]
    title = f"{run.label} {setting_name(grid[last])}".strip()
    mine = mine[(mine["rule"] == FIXED) & (mine["setting"] == setting_name(grid[last]))] if len(mine) else mine
    score = "no evaluation" if mine.empty else "{mean:.1f} [{low:.1f}, {high:.1f}]".format(**mine.iloc[0])
    return pd.concat(frames, ignore_index=True).assign(panel=run.label, method=run.method, title=f"{title}\n{score}")


def _setting_shown(grid: list[dict[str, float]], picked: pd.DataFrame) -> int:
    """Which of the run's settings its panel shows: the first one picked, else the largest."""
    largest = max(range(len(grid)), key=lambda k: tuple(grid[k].values()))
    if picked.empty:
        return largest
    pick = str(picked.iloc[0]["picks"]).split(PICKS)[0]
    return next((k for k, setting in enumerate(grid) if setting_name(setting) == pick), largest)


def _paths(run: Run, arrays: Arrays, grid: list[dict[str, float]], last: int) -> list[pd.DataFrame]:
    """A frame a particle: its places over the knob that moves it, with the other knobs as in setting `last`."""
    moves = path_of(run)
    if moves is None:
        return []
    others = [knob for knob in run.knobs if knob != moves]
    along = [k for k in range(len(grid)) if all(grid[k][knob] == grid[last][knob] for knob in others)]
    along = [k for k in along if grid[k][moves] <= grid[last][moves]]
    along.sort(key=lambda k: grid[k][moves])
    if len(along) < 2:
        return []
    levels = [grid[k][moves] for k in along]
    places = np.moveaxis(arrays["candidates"][:, along], 1, -2)  # [s, p, n, l, 2]
    valid = np.all(arrays["valid"][:, along], axis=1)  # [s, p, n]
    seeds, observations = valid.shape[:2]
    pairs = [(s, p) for p in range(observations) for s in range(seeds)][:SETS]  # other seeds before other observations
    traces = [places[s, p, i] for s, p in pairs for i in np.flatnonzero(valid[s, p])[:PARTICLES]]
    return [_points("path", trace, trace=number, step=levels) for number, trace in enumerate(traces)]


def _draw_method(axes: Axes, part: pd.DataFrame, color: tuple[float, float, float]) -> None:
    actions = part[part["kind"] == "action"]
    axes.scatter(actions["x"], actions["y"], s=7, color=color, edgecolors="white", lw=0.25, alpha=0.85, zorder=6)
    paths = part[part["kind"] == "path"]
    for _, trace in paths.groupby("trace") if len(paths) else ():  # without any there is no such column
        axes.plot(trace["x"], trace["y"], ".-", ms=1.2, mew=0, color=INK, lw=0.45, zorder=4)
        axes.plot(trace["x"].iloc[0], trace["y"].iloc[0], "o", ms=2, mfc="white", mec=INK, mew=0.45, zorder=5)
        axes.plot(trace["x"].iloc[-1], trace["y"].iloc[-1], "o", ms=1.8, color=INK, mew=0, zorder=5)


def _legend(points: pd.DataFrame) -> list[Line2D]:
    def entry(label: str, face: str, edge: str, marker: str = "o", size: float = 4, line: str = "none") -> Line2D:
        return Line2D([], [], c=line, lw=0.6, marker=marker, ms=size, mfc=face, mec=edge, label=label)

    handles = [
        entry("data", "white", "0.35"),
        entry("mode", STAR, "black", "*", 9),
        entry("action taken (method's colour)", "0.45", "white", size=5),
    ]
    if (points["kind"] == "path").any():
        handles += [entry("particle: start", "white", INK, line=INK), entry("end", INK, INK, line=INK)]
    return handles


def _spread(count: int, limit: int) -> np.ndarray:
    """At most `limit` of `count` indices, evenly spread: no random draw, so the picture is the same each time."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).astype(int)) if count else np.empty(0, int)


def _ends(axis: pd.Index) -> tuple[float, float]:
    margin = 0.03 * float(axis.max() - axis.min())  # points on the border stay whole
    return float(axis.min()) - margin, float(axis.max()) + margin
