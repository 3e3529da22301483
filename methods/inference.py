"""What a method declares of its inference settings (knobs) and of what acting costs: plain data, which records keep
(`inference` in run.json) and figures read. Nobody else guesses it from a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol


@dataclass(frozen=True)
class Knob:
    """A setting that is chosen at test time, without retraining."""

    name: str  # of its column in episodes.csv
    label: str  # what it is, in a few words, on the axis of a figure
    unit: str = "-"  # "-" where it has none
    path: bool = False  # whether candidate i at its ascending values is one particle on its way, as steps of a flow are
    setting: str = ""  # of a method's, which lists the values to evaluate


class Cost(NamedTuple):
    """What one action (one chunk of them, one answer of a language model) costs, summed over all samples behind it."""

    passes: float
    """Forward passes of a network for one observation and action, or one sequence; an ensemble is one network. The pass
    that a value gradient begins with counts, too. Equal passes that a compiler may join count each."""
    gradients: float = 0.0
    """Value gradients, d Q / d action: exact ones, or evaluations of a network that stands in for them."""


class Diagnosis(NamedTuple):
    """A quantity that can be asked of a trained method at observations of its data, and how a figure lays it out. Its
    values are `[b, lines, panels, x]`, or `[b, lines, x]` without panels."""

    name: str
    label: str  # on an axis
    unit: str
    lines: tuple[str, tuple[Any, ...]]  # what tells the lines apart, and its values
    x: tuple[str, tuple[float, ...]]  # what lies along the axis
    panels: tuple[str, tuple[Any, ...]] = ("", ("",))


SAMPLES = Knob("N", "samples to choose from", "samples", setting="test_n")
"""Of methods that take one of N samples."""


class Declares(Protocol):
    """The part of `methods.core.Method` that is read here."""

    @property
    def inference(self) -> tuple[Knob, ...]: ...

    @property
    def knobs(self) -> tuple[Mapping[str, float], ...]: ...

    def cost(self, knobs: Mapping[str, float]) -> Cost | None: ...


def declaration(method: Declares, chunk: int = 1) -> dict[str, Any]:
    """The knobs and, for every setting that is evaluated, the cost of an action: JSON. What a method does not declare
    is absent; so are costs at a knob that it does not declare, inherited maybe from a method without it. Of actions
    that are chosen `chunk` at once each costs its share."""
    known = {knob.name for knob in method.inference}
    costs = [(setting, _share(method.cost(setting), chunk)) for setting in method.knobs if setting.keys() <= known]
    return {
        "knobs": [{key: value for key, value in asdict(knob).items() if key != "setting"} for knob in method.inference],
        "costs": [{"setting": dict(setting), **cost._asdict()} for setting, cost in costs if cost is not None],
    }


def _share(cost: Cost | None, chunk: int) -> Cost | None:
    return cost if cost is None or chunk == 1 else Cost(*(part / chunk for part in cost))
