"""`--knob`: which settings of test-time knobs are meant, said alike to those who judge and those who analyse."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from core.errors import BadInput
from core.text import nearest, printable

HELP = "Only these settings of a knob: L_test=0,1, or vgf.L_test=0,1 of one method; again for another knob."
SHOWN = 40  # characters of an option that a line repeats


@dataclass(frozen=True)
class Knobs:
    """Of some knobs, the values that are meant; a knob that is not named keeps all of its own."""

    wanted: Mapping[tuple[str, str], tuple[float, ...]] = field(default_factory=dict)
    """(method, or "" for all that have the knob; knob) -> values. What names a method overrules what names none."""

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Knobs:
        """Of options as "L_test=0,1" and "vgf.L_test=0,1".

        Raises: BadInput: one of them is something else, or names again what another one did.
        """
        wanted: dict[tuple[str, str], tuple[float, ...]] = {}
        for text in texts:
            name, _, values = text.partition("=")
            method, _, knob = map(str.strip, name.rpartition("."))
            try:
                numbers = tuple(float(one) for one in values.split(","))
            except ValueError:
                numbers = ()
            if not knob or not numbers or not all(map(math.isfinite, numbers)):
                raise BadInput(f"--knob {_shown(text)}: expected KNOB=NUMBER,NUMBER or METHOD.KNOB=NUMBER")
            if (method, knob) in wanted:
                raise BadInput(
                    f"--knob {_shown(text)}: {_shown(name.strip())} is named twice; list its values after one ="
                )
            wanted[method, knob] = numbers
        return cls(wanted)

    def check(self, there: Iterable[tuple[str, Mapping[str, Collection[float]]]]) -> None:
        """Refuses what would leave out all there is in silence. `there`: of every run its method, and the values that
        each of its knobs has.

        Raises: BadInput: a method, a knob of it or a value of that is nowhere.
        """
        values: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
        methods = set[str]()
        for method, knobs in there:
            methods.add(method)
            for knob, some in knobs.items():
                for one in ("", method):
                    values[one, knob] |= {_written(value): value for value in some}
        for (method, knob), numbers in self.wanted.items():
            option = f"--knob {_shown(f'{method}.{knob}' if method else knob)}"
            if method and method not in methods:
                raise BadInput(f"{option}: no run of {_shown(method)}; {nearest(method, sorted(methods), '')}")
            if (method, knob) not in values:
                have = sorted({name for of, name in values if of == method})
                hint = nearest(knob, have, "") if have else "there are none"
                raise BadInput(f"{option}: no run{f' of {method}' if method else ''} has such a knob; {hint}")
            known = values[method, knob]
            if absent := [_written(one) for one in numbers if _written(one) not in known]:
                listed = ", ".join(sorted(known, key=lambda one: known[one]))
                raise BadInput(f"{option}={absent[0]}: no run has it; there is {listed}")

    def keeps(self, method: str, setting: Mapping[str, float]) -> bool:
        """Whether a setting of a method's knobs is meant. Records hold seven digits, so these are compared."""
        for knob, value in setting.items():
            numbers = self.wanted.get((method, knob), self.wanted.get(("", knob)))
            if numbers is not None and _written(value) not in map(_written, numbers):
                return False
        return True


def _written(value: float) -> str:
    return f"{float(value):.7g}"


def _shown(text: str) -> str:
    return printable(text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}...")
