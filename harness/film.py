"""A trained policy in its environment, frame by frame; of a bandit, the way of its candidates over the reward."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core.errors import BadInput
from core.extras import install
from core.files import draft
from harness.openloop import OpenLoop
from harness.policy import Policy
from methods.core import part_key

SUFFIXES = (".mp4", ".gif", ".png")
MOST_FRAMES = 300
"""Of an episode, unless it is said which."""
IN_A_STRIP = 8
"""Frames of an episode in a picture."""
DRAWS = 12
"""Of a bandit: sets of candidates that are shown, each drawn by itself."""
PAUSE = 10
"""Frames for which the last of an episode stands."""
ORANGE, INK = (230, 97, 1), (20, 20, 25)


class Frame(NamedTuple):
    """A picture and what it shows."""

    pixels: np.ndarray
    """`[h, w, 3]` uint8."""
    episode: int
    last: bool
    """Whether the episode ends with it."""


class Ended(NamedTuple):
    """What an episode came to."""

    episode: int
    total: float
    """Return."""
    steps: int
    success: bool


def rollout(
    policy: Policy, knobs: Mapping[str, float], episodes: int, size: tuple[int, int], every: int,
    say: Callable[[Ended], None], progress: Callable[[float], None],
) -> Iterator[Frame]:  # fmt: skip
    """Frames of episodes from the starts of the evaluation's first ones; `every`: steps a frame, 0: so many that an
    episode has at most MOST_FRAMES.

    Raises: SimulatorError: the simulator does.
    """
    from tasks.simulation.drawing import Drawing
    from tasks.simulation.simulators import Simulators

    method, spec, active = policy.method, policy.task.spec, np.ones(1, bool)
    every = every or -(-spec.horizon // MOST_FRAMES)
    act = jax.jit(partial(_act, method))
    values = {name: jnp.full(1, float(value), jnp.float32) for name, value in knobs.items()}
    with contextlib.ExitStack() as held:
        simulators = held.enter_context(Simulators(policy.task.make_env, 1))  # seeded as those of the evaluation
        drawing: Drawing | None = None
        for number in range(episodes):
            obs = simulators.reset(np.array([number]))
            if drawing is None:  # of the model that the first start settles on
                drawing = Drawing(simulators.envs[0], *size)
                held.callback(drawing.close)
            drawing.restart()
            key = jax.random.fold_in(part_key(jax.random.key(policy.seed), "render"), number)
            chunks = OpenLoop(1, method.spec.action_dim, spec.action_dim)
            total, success, done, step = 0.0, False, False, 0
            words = f"{policy.label}\nepisode {number + 1} of {episodes}"
            yield Frame(_written(drawing.frame(), f"{words}, start"), number, False)
            while not done and step < spec.horizon:
                due, fresh = chunks.due(np.zeros(1, bool)), None
                if due.any():
                    fresh = np.asarray(act(policy.state, jnp.asarray(obs), jax.random.fold_in(key, step), values))
                found = simulators.step(chunks.step(due, fresh), active)
                drawing.follow()
                obs, total, step = found.obs, total + float(found.reward[0]), step + 1
                success |= bool(found.success[0])
                done = bool(found.terminated[0] or found.truncated[0])
                last = done or step == spec.horizon
                if step % every == 0 or last:
                    said = f"{words}, step {step}, return {total:.4g}" + (", success" if success else "")
                    yield Frame(_written(drawing.frame(), said), number, last)
                progress((number + step / spec.horizon) / episodes)
            say(Ended(number, total, step, success))


def _act(method: Any, state: Any, obs: Any, key: Any, knobs: Any) -> Any:
    return method.act(state, method.spec.split(obs), key, knobs)


def flow(policy: Policy, at: Mapping[str, float], size: tuple[int, int]) -> Iterator[Frame]:
    """Frames of a bandit: where candidates stand at each step of the method's path, up to the step that `at` says, over
    the true reward; a method whose knobs are no path has one frame.

    Raises: BadInput: the task has no landscape in two dimensions.
    """
    land = policy.task.landscape()
    if land is None or policy.task.spec.action_dim != 2:
        raise BadInput(f"{policy.task.name}: has neither a simulator nor a reward in two dimensions to draw")
    path = next((knob.name for knob in policy.method.inference if knob.path), "")
    steps = range(int(at[path]) + 1) if path else (None,)
    obs = jnp.tile(jnp.asarray(policy.task.make_env().reset(seed=0)[0]), (DRAWS, 1))
    key = part_key(jax.random.key(policy.seed), "render")
    seen = jax.jit(lambda state, knobs: policy.method.candidates(state, policy.method.spec.split(obs), key, knobs))
    ground = _ground(land, size)
    trails: list[np.ndarray] = []
    for step in steps:
        knobs = {**at, path: float(step)} if step is not None else at
        values = {name: jnp.full(DRAWS, float(value), jnp.float32) for name, value in knobs.items()}
        found, valid = seen(policy.state, values)
        trails.append(np.asarray(found)[np.asarray(valid)])
        same = trails if all(len(one) == len(trails[0]) for one in trails) else trails[-1:]
        words = policy.label + (f"\n{path} = {step}" if step is not None else "\ncandidates")
        yield Frame(_written(_drawn(ground, land, same), words), 0, step in (None, steps[-1]))


def _ground(land: Mapping[str, np.ndarray], size: tuple[int, int]) -> Image.Image:
    """The true reward in greys, the data as dots; the y axis upwards."""
    reward = land["true_reward"]
    level = (reward - reward.min()) / max(float(np.ptp(reward)), 1e-9)
    grey = (255 - 150 * level[::-1]).astype(np.uint8)
    image = Image.fromarray(grey).convert("RGB").resize(size, Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(image)
    for x, y in _pixels(land, land["data_actions"], image.size):
        pen.ellipse((x - 1, y - 1, x + 1, y + 1), fill=(120, 150, 200))
    return image


def _pixels(land: Mapping[str, np.ndarray], actions: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    (low_x, high_x), (low_y, high_y) = ((land[name][0], land[name][-1]) for name in ("grid_x", "grid_y"))
    x = (actions[:, 0] - low_x) / (high_x - low_x) * (size[0] - 1)
    y = (high_y - actions[:, 1]) / (high_y - low_y) * (size[1] - 1)
    return np.stack([x, y], axis=1)


def _drawn(ground: Image.Image, land: Mapping[str, np.ndarray], trails: Sequence[np.ndarray]) -> np.ndarray:
    image = ground.copy()
    pen = ImageDraw.Draw(image)
    places = [_pixels(land, one, image.size) for one in trails]
    for before, after in pairwise(places):
        for start, end in zip(before, after, strict=True):
            pen.line((*start, *end), fill=(250, 190, 140))
    for x, y in places[-1]:
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=ORANGE, outline=INK)
    return np.asarray(image)


def _written(pixels: np.ndarray, text: str) -> np.ndarray:
    """The picture with words at its upper left, readable on any ground."""
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(10, image.height // 32))
    pen.text((8, 6), text, font=font, fill=(255, 255, 255), stroke_width=2, stroke_fill=INK)
    return np.asarray(image)


def write(frames: Iterator[Frame], path: Path, fps: float) -> int:
    """Writes MP4, GIF, or a PNG of IN_A_STRIP frames an episode side by side; how many frames there were.

    Raises: BadInput: another suffix, or what writes MP4 is not installed. OSError: it cannot be written.
    """
    return {".mp4": _mp4, ".gif": _gif, ".png": _strip}[path.suffix](frames, path, fps)


def check(path: Path) -> None:
    """Raises: BadInput: `write` would."""
    if path.suffix not in SUFFIXES:
        raise BadInput(f"--out {path}: expected a name that ends with {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise BadInput(f"--out {path}: no folder {path.parent}")
    if path.suffix == ".mp4":
        try:
            import imageio_ffmpeg  # noqa: F401
        except ImportError:
            raise BadInput(f"--out {path}: MP4 needs an encoder: {install('video')}; .gif needs none") from None


def _mp4(frames: Iterator[Frame], path: Path, fps: float) -> int:
    import imageio_ffmpeg

    count, writer = 0, None
    with draft(path) as target, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # JAX's on forks: the encoder is another program at once
        try:
            for frame in frames:
                height, width = frame.pixels.shape[:2]
                if writer is None:
                    writer = imageio_ffmpeg.write_frames(
                        str(target), (width, height), fps=fps, macro_block_size=2, quality=8
                    )
                    writer.send(None)
                for _ in range(PAUSE if frame.last else 1):
                    writer.send(np.ascontiguousarray(frame.pixels))
                count += 1
        finally:
            if writer is not None:
                writer.close()
    return count


def _gif(frames: Iterator[Frame], path: Path, fps: float) -> int:
    images, times = list[Image.Image](), list[int]()
    for frame in frames:  # kept with a palette each, a third of what they were
        images.append(Image.fromarray(frame.pixels).convert("P", palette=Image.Palette.ADAPTIVE))
        times.append(round(1000 / fps) * (PAUSE if frame.last else 1))
    with draft(path) as target:
        images[0].save(target, save_all=True, append_images=images[1:], duration=times, loop=0)
    return len(images)


def _strip(frames: Iterator[Frame], path: Path, fps: float) -> int:
    del fps
    rows, count = list[np.ndarray](), 0
    for _, of in groupby(frames, key=lambda frame: frame.episode):
        each = [frame.pixels for frame in of]
        places = np.linspace(0, len(each) - 1, min(IN_A_STRIP, len(each))).round().astype(int)
        rows.append(np.concatenate([each[place] for place in places], axis=1))
        count += len(each)
    with draft(path) as target:
        widest = max(row.shape[1] for row in rows)
        even = [np.pad(row, ((0, 0), (0, widest - row.shape[1]), (0, 0))) for row in rows]  # few frames: black behind
        Image.fromarray(np.concatenate(even)).save(target)
    return count
