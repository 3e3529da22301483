"""Films a trained policy, from the record of its run: no data are loaded and nothing is trained.

The film is for looking: nothing is evaluated by it, and its setting is by default the one that scored best.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from core.command import guarded
from core.errors import BadInput
from core.files import expanded, sweep
from core.options import parts
from core.remote import is_url

if TYPE_CHECKING:
    from harness.film import Ended
    from harness.policy import Policy

LEAST, MOST = 64, 4096  # pixels

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def render(
    run: Annotated[str, typer.Argument(help="a run's folder, a seed's, or results/ with --task and --method")],
    task: Annotated[str, typer.Option(help="of several runs below RUN, that of this task")] = "",
    method: Annotated[str, typer.Option(help="and of this method")] = "",
    seed: Annotated[int | None, typer.Option(min=0, help="default: the first that is finished")] = None,
    at: Annotated[str, typer.Option(help="knobs: L_test=5,N=1; default: those that scored best")] = "",
    episodes: Annotated[int, typer.Option(min=1, max=1000, help="how many")] = 3,
    out: Annotated[Path, typer.Option(help="a name ending with .mp4, .gif, or .png for a strip of frames")] = Path(
        "video.mp4"
    ),
    width: Annotated[int, typer.Option(min=LEAST, max=MOST, help="pixels")] = 640,
    height: Annotated[int, typer.Option(min=LEAST, max=MOST, help="pixels")] = 480,
    every: Annotated[int, typer.Option(min=0, help="steps a frame; 0: at most 300 frames an episode")] = 0,
    fps: Annotated[float, typer.Option(min=1, max=120, help="frames a second")] = 30.0,
) -> None:  # fmt: skip
    """Writes a film of a trained policy: MP4, GIF, or a strip of frames."""

    def go() -> None:
        if is_url(run):
            raise BadInput(f"{run}: is a URL; parts are read from a folder")
        place, target = expanded(Path(run)), expanded(out)
        from harness import film, policy
        from tasks.simulation.drawing import choose_backend

        film.check(target)
        folder = policy.found(place, task, method, seed)
        backend = choose_backend()  # before a suite imports MuJoCo
        _film(policy.load(folder), backend, at, episodes, (width - width % 2, height - height % 2), every, fps, target)

    raise typer.Exit(guarded(go))


def _film(
    policy: Policy, backend: str, at: str, episodes: int, size: tuple[int, int], every: int, fps: float, out: Path
) -> None:  # fmt: skip
    from harness import film
    from harness.numerics import pin
    from harness.progress import Progress

    console = Console(stderr=True)
    knobs = setting(policy, at)
    sweep(out.parent)
    for line in pin("control"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    with Progress(console) as progress:
        progress.say(f"{policy.label}" + (f" at {_text(knobs)}" if knobs else ""))
        if policy.task.cheap and policy.task.landscape() is not None:
            frames = film.flow(policy, knobs, size)
        else:
            from tasks.simulation.drawing import no_backend

            if not backend:
                raise no_backend()
            progress.say(f"drawn by MUJOCO_GL={backend}")

            def say(ended: Ended) -> None:
                success = ", success" if ended.success else ""
                progress.say(f"episode {ended.episode + 1}: {ended.steps} steps, return {ended.total:.4g}{success}")

            with progress.stage("film", 1.0, 0.0) as bar:
                count = film.write(film.rollout(policy, knobs, episodes, size, every, say, bar.at), out, fps)
            progress.say(f"{out} ({count} frames)")
            return
        progress.say(f"{out} ({film.write(frames, out, fps / 5)} frames)")  # few, and each worth a look


def setting(policy: Policy, at: str) -> Mapping[str, float]:
    """The knobs to act with. Raises: BadInput: one is unknown, no number, or beyond those that the run evaluated."""
    knobs = dict(policy.best)
    for one in parts("--at", at, "knobs") if at else ():
        name, _, value = one.partition("=")
        if name not in knobs:
            there = ", ".join(knobs) or "none"
            raise BadInput(f"--at {one}: {policy.method.name} has no knob {name!r}; it has: {there}")
        try:
            knobs[name] = float(value)
        except ValueError:
            raise BadInput(f"--at {one}: expected {name}=NUMBER") from None
        least, most = (end(float(known[name]) for known in policy.settings) for end in (min, max))
        if not least <= knobs[name] <= most:
            raise BadInput(f"--at {one}: the run was evaluated from {least:g} to {most:g}")
        if all(float(known[name]).is_integer() for known in policy.settings) and not knobs[name].is_integer():
            raise BadInput(f"--at {one}: expected a whole number, as the run's are")
    return knobs


def _text(knobs: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in knobs.items())
