"""What methods declare of acting: costs by hand, and costs counted while they act."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

import methods
from core import records
from methods.bc import BC
from methods.inference import Cost, declaration
from tests.methods.common import QUICK, SPEC, each, make
from tests.methods.counting import alone, counted

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in methods.REGISTRY},
    "vgf with particles of its own": ("vgf", {"test_particles": 4}),
    "best of Gaussians": ("best_of_n", {"sampler": "gaussian", "critic": "iql"}),
    "vgf by a flow of values": ("vgf", {"critic": "floq"}),
    "diffusion_ql by a flow of values": ("diffusion_ql", {"critic": "floq"}),
    "bc by diffusion": ("bc", {"sampler": "diffusion"}),
    **{f"qgf, {how}": ("qgf", {"gradient": how}) for how in ("noisy", "jacobian", "full", "after")},
}
SMALL: dict[str, Any] = {
    "hidden_dims": (4,), "flow_steps": 3, "n_particles": 2, "test_flow_steps": (0, 3), "test_n": (1, 4),
    "test_weights": (0.0, 0.5), "diffusion_steps": 4, "sampler_dims": (4,), "blocks": 1, "solver_steps": 3,
}  # fmt: skip


def small(name: str, **settings: Any) -> Any:
    known = {field.name for field in fields(methods.get(name).Config)}
    return make(name, **{key: value for key, value in SMALL.items() if key in known}, **settings)


@pytest.mark.parametrize("variant", each(VARIANTS, (*QUICK, "qgf")))
def test_a_declared_cost_is_what_acting_takes(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, settings = VARIANTS[variant]
    method = small(name, **settings)
    for setting in method.knobs:
        assert counted(alone(method, setting), monkeypatch) == method.cost(setting), setting


@pytest.mark.parametrize(
    ("name", "settings", "knobs", "passes", "gradients"),
    [
        ("bc", {}, {}, 10, 0), ("bc_gaussian", {}, {}, 1, 0), ("fql", {}, {}, 1, 0), ("fbrac", {}, {}, 10, 0),
        ("td3bc", {}, {}, 1, 0), ("rebrac", {}, {}, 1, 0), ("iql", {}, {}, 1, 0), ("ivr", {}, {}, 1, 0),
        ("best_of_n", {}, {"N": 20}, 20 * 10 + 20, 0), ("ifql", {}, {"N": 32}, 32 * 11, 0),
        ("idql", {}, {"N": 16}, 16 * 5 + 16, 0), ("sfbc", {}, {"N": 32}, 32 * 15 + 32, 0),
        ("diffusion_ql", {}, {"N": 50}, 50 * 5 + 50, 0),
        ("vgf", {}, {"L_test": 0}, 5 * 10 + 5, 0), ("vgf", {}, {"L_test": 3}, 5 * 10 + 5 * 3 + 5, 15),
        ("vgf", {"test_particles": 8, "flow_steps": 4}, {"L_test": 3}, 8 * 4 + 8 * 3 + 8, 24),
        ("avgf", {}, {"L_test": 3}, 5 * 10 + 5 * 3 + 5, 15),
        ("qgf", {}, {"w": 0.0, "N": 4}, 4 * 10 + 4, 0), ("vgf_qgf", {}, {"w": 0.02, "N": 1}, 10 + 10 + 1, 10),
        ("qgf", {}, {"w": 0.02, "N": 4}, 4 * (10 + 10) + 4, 40),
        ("qgf", {"gradient": "full"}, {"w": 0.02, "N": 1}, 10 + 10 * 10 + 10 + 1, 10),
        ("robust_q", {}, {"w": 0.02, "N": 4}, 4 * (10 + 10) + 4, 40), ("robust_q", {}, {"w": 0.0, "N": 1}, 11, 0),
        ("qgf", {"gradient": "after"}, {"w": 0.02, "N": 2}, 2 * (10 + 3 + 1), 6),
    ],
)  # fmt: skip
def test_costs_by_hand(name: str, settings: Any, knobs: Any, passes: int, gradients: int) -> None:
    assert make(name, **settings).cost(knobs) == Cost(passes, gradients)


@pytest.mark.parametrize("name", methods.REGISTRY)
def test_every_knob_is_declared(name: str) -> None:
    method = make(name)
    assert {knob.name for knob in method.inference} == set(method.knobs[0])
    assert all(knob.label and knob.unit for knob in method.inference)
    found = records.check(declaration(method), records.InferenceRecord, name)
    assert [one["setting"] for one in found["costs"]] == list(method.knobs)


def test_a_cost_that_knows_nothing_of_a_knob_is_not_declared() -> None:
    """A method with a knob of its own inherits the cost of one without."""

    class Best(BC):
        knobs = ({"N": 1}, {"N": 5})  # type: ignore[assignment]

    assert declaration(Best(BC.Config(), SPEC)) == {"knobs": [], "costs": []}


def test_a_declaration_is_json() -> None:
    found = json.loads(json.dumps(declaration(make("vgf", test_flow_steps=(0, 2)))))
    assert found == {
        "knobs": [{"name": "L_test", "label": "flow steps at test time", "unit": "steps", "path": True}],
        "costs": [{"setting": {"L_test": 0}, "passes": 55, "gradients": 0},
                  {"setting": {"L_test": 2}, "passes": 65, "gradients": 10}],
    }  # fmt: skip
    assert declaration(make("fql")) == {"knobs": [], "costs": [{"setting": {}, "passes": 1, "gradients": 0.0}]}
