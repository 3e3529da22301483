"""What seeds that did not come to their end are charged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.records.load import load
from analysis.tuning.spending import spent
from tests.analysis.synthetic import write_run


def stage(name: str, steps: int, seconds: float | None) -> dict[str, Any]:
    return {"name": name, "fingerprint": name, "steps": steps, "seconds": seconds}


def test_an_online_seed_is_charged_from_where_it_began(tmp_path: Path) -> None:
    """Evaluated at step 140, it is at environment step 100 of 200, after 40 offline ones."""
    online = {"continues": "0" * 12, "from_step": 40, "steps": 200}
    stages = [stage("critic", 40, 4.0), stage("online", 200, 9.0)]
    write_run(tmp_path, seeds=1, status="failed", evaluation_steps=[40, 90, 140], online=online, stages=stages)
    assert spent(load(tmp_path).runs).steps == 40 + 100


@pytest.mark.parametrize(
    ("saved", "steps"), [({}, 300), ({"behavior": 120}, 120), ({"behavior": 300, "critic": 50}, 350)]
)
def test_a_stage_is_charged_as_far_as_it_came(tmp_path: Path, saved: dict[str, int], steps: int) -> None:
    """Of three stages, the second was hardly begun and the third was not. Where states are kept, their steps count; and
    their seconds, which the record of a killed run lacks."""
    stages = [stage("behavior", 300, 3.0), stage("critic", 500, None), stage("actor", 600, None)]
    write_run(tmp_path, seeds=1, status="failed", evaluation_steps=[], stages=stages)
    for name, step in saved.items():
        (tmp_path / "artifacts" / name).mkdir(parents=True)
        note = {"finished": False, "step": step, "identity": {}, "seconds": step / 10}
        (tmp_path / "artifacts" / name / "stage.json").write_text(json.dumps(note))
    found = spent(load(tmp_path).runs)
    assert (found.steps, found.untimed) == (steps, 0) and found.training == (steps / 10 if saved else 3.0)


def test_a_shared_stage_is_charged_as_far_as_any_record_says(tmp_path: Path) -> None:
    """A run that was stopped in the stage that another then finished."""
    write_run(tmp_path, fingerprint="a" * 12, seeds=1, status="interrupted", evaluation_steps=[],
              stages=[stage("behavior", 300, None), stage("one", 500, None)])  # fmt: skip
    write_run(tmp_path, fingerprint="b" * 12, seeds=1, stages=[stage("behavior", 300, 3.0), stage("two", 500, 5.0)])
    found = spent(load(tmp_path).runs)
    assert (found.steps, found.training, found.untimed) == (800, 8.0, 0)
