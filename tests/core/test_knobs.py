"""`--knob`, which commands of several rooms have."""

from __future__ import annotations

import pytest

from core.errors import BadInput
from core.knobs import Knobs

THERE = [
    ("vgf", {"T": [1.0], "L_test": [0.0, 1.0, 4.0]}),
    ("best_of_n", {"T": [0.0, 1.0], "N": [1.0, 5.0]}),
    ("sft", {}),
]


def test_settings_that_are_kept() -> None:
    """A knob that is not named keeps all its values; what names a method overrules what names none."""
    knobs = Knobs.parse(["L_test=0, 1", "T=0", "vgf.T=1"])
    knobs.check(THERE)
    assert knobs.keeps("vgf", {"T": 1.0, "L_test": 1}) and not knobs.keeps("vgf", {"T": 1, "L_test": 4})
    assert not knobs.keeps("vgf", {"T": 0.0, "L_test": 1})
    assert knobs.keeps("best_of_n", {"T": 0.0, "N": 5}) and not knobs.keeps("best_of_n", {"T": 1.0, "N": 5})
    assert knobs.keeps("sft", {}) and Knobs().keeps("vgf", {"T": 0.3, "L_test": 9})


def test_seven_digits_count_as_records_hold_them() -> None:
    assert Knobs.parse(["w=0.1"]).keeps("m", {"w": 0.1 + 1e-12}) and not Knobs.parse(["w=0.1"]).keeps("m", {"w": 0.11})


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        (["L_test"], "--knob L_test: expected KNOB=NUMBER"), (["L_test="], "--knob L_test=: expected KNOB"),
        (["=1"], "--knob =1: expected KNOB"), (["L_test=a"], "--knob L_test=a: expected KNOB"),
        ([""], "--knob : expected"),
        (["L_test=nan"], "expected KNOB"), (["L_test=1", "L_test=2"], "--knob L_test=2: L_test is named twice"),
        (["L_tset=1"], "--knob L_tset: no run has such a knob; did you mean 'L_test'?"),
        (["best_of_n.L_test=1"], "--knob best_of_n.L_test: no run of best_of_n has such a knob; valid: N, T"),
        (["vfg.L_test=1"], "--knob vfg.L_test: no run of vfg; did you mean 'vgf'?"),
        (["sft.T=1"], "--knob sft.T: no run of sft has such a knob; there are none"),
        (["L_test=1,7"], "--knob L_test=7: no run has it; there is 0, 1, 4"),
        (["vgf.T=0"], "--knob vgf.T=0: no run has it; there is 1"), (["\x1b[31m=1"], r"--knob \x1b[31m: no run has"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_line(texts: list[str], line: str) -> None:
    with pytest.raises(BadInput) as error:
        Knobs.parse(texts).check(THERE)
    assert line in str(error.value) and "\n" not in str(error.value)
