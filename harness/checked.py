"""What is asked for, planned and looked at before anything is fetched or written, so that a bad value costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import budget
from harness.adopt import Adopted
from harness.engines import engine_of
from harness.numerics import pin
from harness.options import Execution
from harness.plan import RunNode
from harness.request import Plan, Request
from methods.core import BadInput

_MANY = 1000  # seeds: more are not planned before it is seen that they fit


@dataclass(frozen=True)
class Checked:
    """A plan without a fault that can be seen before data are there."""

    plan: Plan
    places: Mapping[str, Any]  # of data, by task
    drafts: list[RunNode]  # runs with unknown data
    adopted: list[Adopted]

    @property
    def per_task(self) -> int:
        """Runs."""
        return len(self.drafts) // len(self.plan.tasks)


def checked(
    plan: Plan, asked: Request, execution: Execution, saved: tuple[Request, Path] | None, say: Callable[[str], object]
) -> Checked:
    """Pins what must not differ, and looks at everything.

    Args:
      plan: of what is `asked`.
      saved: the request that a plan's file holds, and that file, whose meaning may not have changed; None: it is about
        to be written.
      say: hears lines for the user.

    Raises:
      BadInput: names what is wrong.
    """
    for line in pin(plan.family):
        say(line)
    if "data_episodes" in asked.sizes:
        _check_data_episodes(plan)
    places = {task.name: task.data_location(execution.data) for task in plan.tasks}
    engine_of(plan.tasks[0].suite).device()
    seeds = plan.settings.seeds
    if len(seeds) > _MANY:
        budget.check(
            [run for task in plan.tasks for run in plan.runs(task, seeds=seeds[:1])], len(seeds), execution.results
        )
    drafts = [run for task in plan.tasks for run in plan.runs(task)]
    if saved:
        before, file = saved
        before.check_unchanged(file, drafts if asked == before else None)
    budget.check(drafts, len(seeds), execution.results)
    adopted = [Adopted(path) for path in execution.adopt]
    for one in adopted:
        one.check(drafts, data_known=False)
    for line in plan.departures(drafts):
        say(line)
    return Checked(plan, places, drafts, adopted)


def _check_data_episodes(plan: Plan) -> None:
    """Refuses a size for data that are not generated, or that no memory holds. Raises: BadInput."""
    if not plan.generated:
        where = f"--data {plan.data}" if plan.data not in ("auto", "generate") else f"suite {plan.tasks[0].suite}"
        raise BadInput(f"--data-episodes has no meaning for {where}: nothing is generated in that size")
    for task in plan.tasks:
        budget.check_dataset(task, plan.settings.data_episodes)
