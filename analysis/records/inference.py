"""What methods declared of their knobs and of what acting costs, as records keep it (`inference` in run.json), and
suites of their scores (`unit`). Records from before there was such a thing have neither labels nor costs, and nothing
is made up for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from analysis.records.episodes import setting_name
from analysis.records.files import shown
from analysis.records.runs import Run

UNDECLARED_PATH = "L_test"
"""In records without a declaration, the knob along which candidates are the same particles: schema 1 says so of it."""
UNITLESS = "-"
UNITS = {
    "toy": "true reward [100 = better mode]", "ogbench": "success [%]", "d4rl": "score [100 = D4RL's expert]",
    "minari": "score [100 = expert]", "tldr": "win rate [%]", "hh": "win rate [%]",
    "tldr-synthetic": "win rate [%]", "hh-synthetic": "win rate [%]",
}  # fmt: skip
"""Suite -> what its score is, on an axis, where no record says it."""


class Cost(NamedTuple):
    """What one action costs: forward passes of a network, those that gradients begin with among them, and value
    gradients."""

    passes: float
    gradients: float


def costs(run: Run) -> dict[str, Cost]:
    """Setting ("L_test=1", "" without knobs) -> its cost, of those that the record knows."""
    found = {}
    for one in run.inference.get("costs", ()):
        at: Mapping[str, float] = one["setting"]
        if at.keys() == set(run.knobs):
            found[setting_name({knob: at[knob] for knob in run.knobs})] = Cost(one["passes"], one["gradients"])
    return found


def path_of(run: Run) -> str | None:
    """The knob along which candidates are the same particles on their way; None if the run has none."""
    if not run.inference:
        return UNDECLARED_PATH if UNDECLARED_PATH in run.knobs else None
    paths = [one["name"] for one in run.inference["knobs"] if one.get("path") and one["name"] in run.knobs]
    return paths[0] if paths else None


def axes_of(runs: Iterable[Run]) -> dict[str, str]:
    """Knob -> what stands on its axis: "L_test, flow steps at test time [steps]"; the name alone where no record
    declares it, and each meaning where methods mean different things by it."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for run in runs:
        for knob in run.knobs:
            found[knob] |= {}
        for one in run.inference.get("knobs", ()):
            if one["name"] in run.knobs:
                found[one["name"]][f"{_plain(one['label'])} [{_plain(one['unit'] or UNITLESS)}]"] = None
    return {knob: ", ".join([knob, " / ".join(meanings)] if meanings else [knob]) for knob, meanings in found.items()}


def units_of(runs: Iterable[Run]) -> dict[str, str]:
    """Suite -> what its score is, on an axis, as its runs say, each meaning where they differ; of suites whose runs say
    nothing, as UNITS has it."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for run in runs:
        if text := run.meta.get("unit"):
            found[run.suite][_plain(text)] = None
    return UNITS | {suite: " / ".join(meanings) for suite, meanings in found.items()}


def unit(suite: str, units: Mapping[str, str] = UNITS) -> str:
    """What a suite's score is, on an axis: "success [%]". `units`: of every suite, as records say
    (`inference.units_of`)."""
    return units.get(suite, "score [points]")


def _plain(text: str) -> str:
    """The beginning of a stranger's text, which matplotlib does not read as a formula."""
    return shown(text.replace("\n", " "), quote=False).replace("$", r"\$")
