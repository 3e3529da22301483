"""Every figure there is: what it is called, whose it is, its width, what it shows and how it is drawn.

A new figure is one file with a `select` and a `draw`, and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import (
    aggregate,
    budgets,
    costs,
    curves,
    diagnosis,
    efficiency,
    forest,
    knobs,
    landscape,
    language,
    language_plots,
    needed,
    ranks,
    scaling,
    sizes,
)
from analysis.figures.material import Frames, Material
from analysis.figures.page import COLUMN, TEXT, Page, caption
from analysis.records.files import RecordError, shown
from core.text import nearest

TASK, SUITE = "task", "suite"


class Kind(NamedTuple):
    """A figure."""

    name: str
    """Its pictures are called by it, some with what they are over behind it: "knob-L_test"."""
    scope: str
    """Whose it is, and so in whose folder it stands."""
    width: float
    """Inches, unless another width is asked for."""
    select: Callable[[Material, str, str], Frames]
    """(material, suite, task, "" of a suite's) -> the pictures; notes on what is not shown."""
    draw: Callable[[pd.DataFrame, Page], Figure]
    scored: bool = True
    """Whether it is of scores; of language, rewards are known before a judge has compared."""


KINDS = (
    Kind("reward-L_test", TASK, TEXT, language.of_levels, language_plots.draw_levels, scored=False),
    Kind("over-optimisation", TASK, TEXT, language.of_gains, language_plots.draw_gains, scored=False),
    Kind("over-optimisation-N", TASK, TEXT, language.of_gains_of_samples, language_plots.draw_gains, scored=False),
    Kind("gold-distance", TASK, TEXT, language.of_distances, language_plots.draw_distances, scored=False),
    Kind("gold-compute", TASK, COLUMN, language.of_compute, language_plots.draw_compute, scored=False),
    Kind("gold-eps-L_test", TASK, TEXT, language.of_maps, language_plots.draw_maps, scored=False),
    Kind("length-eos", TASK, TEXT, language.of_lengths, language_plots.draw_lengths, scored=False),
    Kind("profiles", SUITE, COLUMN, aggregate.of_profiles, aggregate.draw_profiles),
    Kind("aggregates", SUITE, TEXT, aggregate.of_aggregates, aggregate.draw_aggregates),
    Kind("improvement", SUITE, TEXT, aggregate.of_matrix, aggregate.draw_matrix),
    Kind("ranks", SUITE, COLUMN, ranks.of_suite, ranks.draw),
    Kind("sample-efficiency", SUITE, COLUMN, efficiency.of_suite, efficiency.draw),
    Kind("sample-efficiency-environments", SUITE, TEXT, efficiency.of_environments, efficiency.draw_environments),
    Kind("forest", SUITE, TEXT, forest.of_differences, forest.draw),
    Kind("forest-probability", SUITE, TEXT, forest.of_probabilities, forest.draw_probabilities),
    Kind("seeds-needed", SUITE, COLUMN, needed.of_suite, needed.draw),
    Kind("scaling", SUITE, COLUMN, scaling.of_normalised, scaling.draw_normalised),
    Kind("learning", SUITE, TEXT, curves.of_suite, curves.draw_sheet),
    Kind("knob", SUITE, TEXT, knobs.of_suite, knobs.draw_sheet),
    Kind("online", TASK, TEXT, curves.of_task_online, curves.draw_online),
    Kind("learning", TASK, TEXT, curves.of_task, curves.draw),
    Kind("knob", TASK, COLUMN, knobs.of_task, knobs.draw),
    Kind("l-train", TASK, COLUMN, scaling.of_trained, scaling.draw_trained),
    Kind("wall-clock", TASK, COLUMN, costs.of_clock, costs.draw_clock),
    Kind("gradients", TASK, COLUMN, costs.of_gradients, costs.draw_gradients),
    Kind("budget", TASK, COLUMN, budgets.of_task, budgets.draw),
    Kind("transport", TASK, COLUMN, scaling.of_carried, scaling.draw_carried),
    Kind("model-size", TASK, TEXT, sizes.of_task, sizes.draw),
    Kind("diagnosis", TASK, TEXT, diagnosis.of_task, diagnosis.draw, scored=False),
    Kind("landscape", TASK, TEXT, landscape.of_task, landscape.draw),
)


class Job(NamedTuple):
    """A picture that is to be drawn: what a process needs to draw it."""

    kind: int
    """Its place in KINDS."""
    frame: pd.DataFrame
    page: Page
    stem: Path
    """Where it goes, without suffix."""
    below: str
    """Small print."""

    def draw(self) -> Figure:
        figure = KINDS[self.kind].draw(self.frame, self.page)
        if self.below:
            caption(figure, self.below)  # type: ignore[arg-type]
        return figure


def asked_for(only: Sequence[str]) -> Sequence[str]:
    """Names or globs of figures. Raises: RecordError: one names none."""
    names = list(dict.fromkeys(kind.name for kind in KINDS))
    for one in only:
        if not any(_may_be(name, one) for name in names):
            raise RecordError(f"--only {shown(one, quote=False)}: no such figure; {nearest(one, sorted(names))}")
    return only


def wanted(kind: Kind, stem: str, only: Sequence[str]) -> bool:
    """Whether a picture is among those that are asked for: by its own name or its figure's; all if none is."""
    return not only or any(fnmatchcase(stem, one) or fnmatchcase(kind.name, one) for one in only)


def possible(kind: Kind, only: Sequence[str]) -> bool:
    """Whether a figure may have pictures that are asked for."""
    return not only or any(_may_be(kind.name, one) for one in only)


def _may_be(name: str, one: str) -> bool:
    return fnmatchcase(name, one) or one.startswith(f"{name}-")


def frames(
    material: Material, suite: str, task: str, only: Sequence[str], scored: bool
) -> Iterator[tuple[int, str, pd.DataFrame]]:
    """(place in KINDS, name, numbers) of every picture of a suite (task ""), or of a task. `scored`: whether there are
    scores."""
    for place, kind in enumerate(KINDS):
        if (kind.scope == TASK) == bool(task) and possible(kind, only) and (scored or not kind.scored):
            for stem, frame in kind.select(material, suite, task):
                if wanted(kind, stem, only):
                    yield place, stem, frame
