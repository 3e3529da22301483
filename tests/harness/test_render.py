"""Films of trained policies: real simulators without a display, a bandit's candidates, and what is refused."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence
from typer.testing import CliRunner

import tasks
from harness import film, policy, render_command
from harness.evaluate import Evaluator
from harness.policy import found, load
from tasks.simulation import drawing
from tasks.simulation.pools import simulators
from tests.harness import hopper
from tests.harness.command import ROOT, SMALL, invoke

DRAWS_HERE = any(map(drawing._works, drawing.BACKENDS))
needs_pictures = pytest.mark.skipif(not DRAWS_HERE, reason="no EGL, OSMesa or display: nothing can be drawn here")
TINY = ("--preset", "smoke", "--seeds", "1", "--steps", "10", "--evaluate-every", "10", "--episodes", "1",
        "--set", "hidden_dims=8", "--set", "batch_size=16", "--set", "behavior_steps=5", "--methods", "bc")  # fmt: skip


def render(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as MuJoCo settles on a backend when it is imported; without a display."""
    kept = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "DISPLAY")}
    return subprocess.run(
        [sys.executable, "-m", "harness.render", *map(str, words)], capture_output=True, text=True, timeout=300,
        cwd=ROOT, env={**kept, **environment},
    )  # fmt: skip


def refused(*words: object) -> str:
    done = CliRunner().invoke(render_command.app, [*map(str, words)], catch_exceptions=False)
    assert done.exit_code == 2, (done.stdout, done.stderr)
    (line,) = done.stderr.splitlines()
    return line.removeprefix("error: ")


def pictures(path: Path) -> list[np.ndarray]:
    with Image.open(path) as image:
        return [np.asarray(one.convert("RGB")).astype(int) for one in ImageSequence.Iterator(image)]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of VGF, two seeds on the bandit."""
    results = tmp_path_factory.mktemp("toy") / "results"
    assert invoke(*SMALL, "--results", str(results)).exit_code == 0
    return results


def antmaze_file(folder: Path) -> Path:
    """400 rows of an ant that jitters at random."""
    rng, n, path = np.random.default_rng(0), 400, folder / "antmaze-medium-navigate-v0.npz"
    ends = (np.arange(n) % 100 == 99).astype(np.float32)
    np.savez(path, observations=rng.normal(size=(n, 29)).astype(np.float32), terminals=ends,
             actions=rng.uniform(-1, 1, (n, 8)).astype(np.float32), qpos=rng.normal(size=(n, 15)).astype(np.float32),
             qvel=rng.normal(size=(n, 14)).astype(np.float32))  # fmt: skip
    return path


@needs_pictures
def test_a_hopper_until_it_falls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two episodes; what is drawn changes within each, and frames stand in the order of the episodes."""
    assert invoke(*hopper.command(tmp_path, monkeypatch), "--methods", "bc").exit_code == 0
    out = tmp_path / "hopper.gif"
    done = render(tmp_path / "results", "--task", "hopper-medium-v2", "--episodes", "2", "--out", out,
                  "--width", "128", "--height", "96")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "episode 2: " in done.stderr and "return" in done.stderr and "RuntimeWarning" not in done.stderr
    frames = pictures(out)
    assert frames[0].shape == (96, 128, 3) and len(frames) >= 4
    body = [np.abs(one[40:] - frames[0][40:]).mean() for one in frames]  # below the words
    assert body[0] == 0 and max(body) > 1


@needs_pictures
def test_an_ant_in_its_maze_from_above_with_its_path(tmp_path: Path) -> None:
    """The path is there at the end and not at the start; the goal is all along."""
    results, data = tmp_path / "results", antmaze_file(tmp_path)
    task = "antmaze-medium-navigate-singletask-task1-v0"
    done = invoke("--suite", "ogbench", "--tasks", task, *TINY, "--data", str(data), "--results", str(results))
    assert done.exit_code == 0, done.stderr
    out = tmp_path / "ant.png"
    seen = render(results, "--method", "bc", "--episodes", "1", "--out", out, "--every", "100", "--width", "256",
                  "--height", "192")  # fmt: skip
    assert seen.returncode == 0, seen.stderr
    (strip,) = pictures(out)
    assert strip.shape == (192, film.IN_A_STRIP * 256, 3)
    first, last = strip[:, :256], strip[:, -256:]

    def orange(one: np.ndarray) -> int:
        return int(((one[..., 0] > 150) & (one[..., 1] < 170) & (one[..., 2] < 60)).sum())

    def green(one: np.ndarray) -> int:
        return int(((one[..., 1] > 100) & (one[..., 0] < 60) & (one[..., 2] < 110)).sum())

    assert orange(first) == 0 and orange(last) > 8  # an ant that jitters on the spot for 1,000 steps: 15 or so
    assert green(first) > 5 and green(last) > 5


@pytest.mark.slow
@needs_pictures
def test_an_arm_as_mp4(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    task = "cube-single-play-singletask-task2-v0"
    done = invoke("--suite", "ogbench", "--tasks", task, *TINY, "--data", "generate", "--data-episodes", "3",
                  "--results", str(tmp_path / "results"))  # fmt: skip
    assert done.exit_code == 0, done.stderr
    out = tmp_path / "cube.mp4"
    seen = render(tmp_path / "results", "--episodes", "1", "--out", out, "--every", "40", "--width", "160",
                  "--height", "120")  # fmt: skip
    assert seen.returncode == 0, seen.stderr
    frames = ffmpeg.read_frames(str(out))
    assert next(frames)["size"] == (160, 120)
    every = [np.frombuffer(one, np.uint8).reshape(120, 160, 3).astype(int) for one in frames]
    assert len(every) == 200 // 40 + 1 + film.PAUSE - 1
    assert np.abs(every[-1] - every[0])[30:].mean() > 1


def test_the_flow_of_a_bandit(toy: Path, tmp_path: Path) -> None:
    """A frame a step of the path, 0 to the step that is asked for; candidates move and leave a trail."""
    for step in (0, 1, 2):  # SMALL was evaluated at 0 and 2
        out = tmp_path / f"{step}.gif"
        words = [str(toy), "--out", str(out), "--width", "200", "--height", "200", "--at", f"L_test={step}"]
        done = CliRunner().invoke(render_command.app, words)
        assert done.exit_code == 0, done.stderr
        frames = pictures(out)
        assert len(frames) == step + 1 and f"vgf on toy, seed 0 at L_test={step}" in done.stderr
    assert np.abs(frames[2][40:] - frames[0][40:]).max() > 50  # below the words


@pytest.mark.parametrize("task", ["antmaze-medium-navigate-singletask-task1-v0"])
def test_a_film_begins_where_the_evaluation_does(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """OGBench's mazes draw from NumPy's global generator: the first observations that a policy is shown are those of
    the evaluation's simulators, and the same film twice is the same."""
    (one,) = tasks.select("ogbench", [task])
    with simulators(one, 2) as pool:
        expected = pool.reset(np.arange(2))

    class Nothing:
        def __init__(self, *arguments: Any) -> None: ...
        def restart(self) -> None: ...
        def follow(self) -> None: ...
        def close(self) -> None: ...
        def frame(self) -> np.ndarray:
            return np.zeros((64, 64, 3), np.uint8)

    seen: list[np.ndarray] = []

    def act(method: Any, state: Any, obs: Any, key: Any, knobs: Any) -> Any:
        jax.debug.callback(lambda value: seen.append(np.asarray(value)), obs)
        return jnp.zeros((1, 8))

    monkeypatch.setattr(drawing, "Drawing", Nothing)
    monkeypatch.setattr(film, "_act", act)
    spec = dataclasses.replace(one.spec, horizon=1)
    short = SimpleNamespace(spec=spec, make_env=one.make_env)
    bare: Any = SimpleNamespace(task=short, method=SimpleNamespace(spec=spec), state={}, seed=0, label="x")
    list(film.rollout(bare, {}, 2, (64, 64), 1, lambda ended: None, lambda share: None))
    np.testing.assert_array_equal(np.concatenate(seen), expected)


def test_the_policy_is_the_one_that_was_recorded(toy: Path) -> None:
    """Its candidates at the data's observations are, bit by bit, those that the run wrote when it ended."""
    for seed in (0, 1):
        one = load(found(toy, "", "vgf", seed))
        assert one.seed == seed and [knobs["L_test"] for knobs in one.settings] == [0, 2]
        state: Any = {name: _lane(part) for name, part in one.state.items()}
        with Evaluator(one.method, one.task, [seed], 1) as evaluator:
            again = evaluator.candidates(state, one.task.load("auto").transitions)[seed]
        with np.load(one.folder / "candidates.npz") as recorded:
            assert set(recorded.files) == set(again)
            for name in recorded.files:
                np.testing.assert_allclose(again[name], recorded[name], rtol=1e-5, atol=1e-6, err_msg=name)


def _lane(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[None], tree)


def test_the_setting_shown_is_the_best_or_the_one_asked_for(toy: Path) -> None:
    one = load(found(toy, "", "", 0))
    rows = [line.split(",") for line in (one.folder / "episodes.csv").read_text().splitlines()]
    header, last = rows[0], max(int(row[2]) for row in rows[1:])
    scores: dict[float, list[float]] = {}
    for row in rows[1:]:
        if int(row[2]) == last:
            scores.setdefault(float(row[header.index("L_test")]), []).append(float(row[header.index("score")]))
    assert one.best["L_test"] == max(scores, key=lambda level: np.mean(scores[level]))
    assert render_command.setting(one, "L_test=1") == {"L_test": 1.0}


def test_what_cannot_be_shown_is_one_line(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "x.gif"
    assert refused(tmp_path / "nowhere", "--out", out).endswith("no such folder")
    assert "there is no run.json" in refused(tmp_path, "--out", out)
    assert refused("s3://b/results", "--out", out).endswith("parts are read from a folder")
    assert refused(toy, "--method", "vfg", "--out", out) == (
        f"--method vfg: no run of it below {toy}; did you mean 'vgf'?"
    )
    assert "--task toi: no run of it" in refused(toy, "--task", "toi", "--out", out)
    assert "--seed 7: no run of it" in refused(toy, "--seed", "7", "--out", out)
    assert refused(toy, "--out", tmp_path / "x.avi").endswith("expected a name that ends with .mp4, .gif, .png")
    assert "no folder" in refused(toy, "--out", tmp_path / "no" / "x.gif")
    assert "has no knob 'w'" in refused(toy, "--at", "w=1", "--out", out)
    assert refused(toy, "--at", "L_test=x", "--out", out).endswith("expected L_test=NUMBER")
    for value in ("7", "-1", "nan", "inf"):
        assert refused(toy, "--at", f"L_test={value}", "--out", out).endswith("was evaluated from 0 to 2")
    assert "a whole number" in refused(toy, "--at", "L_test=0.5", "--out", out)
    lonely = tmp_path / "seed-0"
    shutil.copytree(found(toy, "", "", 0), lonely)
    assert "lies in no folder of results" in refused(lonely, "--out", out)
    other = tmp_path / "results"
    shutil.copytree(toy, other)
    shutil.copytree(other / "runs", other / "runs" / "toy" / "toy" / "vgf" / "copy", ignore=lambda *_: ["copy"])
    assert "2 runs" in refused(other, "--out", out)
    note = next((other / "runs" / "toy" / "toy" / "vgf" / "copy").rglob("run.json"))
    note.write_text("{")  # a damaged record is in nobody's way but its own
    assert "run.json" in refused(note.parent, "--out", out)
    shutil.rmtree(other / "runs" / "toy" / "toy" / "vgf" / "copy")
    shutil.rmtree(other / "artifacts")
    assert "its parts are not kept" in refused(other, "--out", out)
    assert not out.exists()


def test_where_nothing_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_works", lambda name: False)
    monkeypatch.setenv("MUJOCO_GL", "disable")
    assert drawing.choose_backend() == "" and os.environ["MUJOCO_GL"] == "disable"
    assert "MUJOCO_GL=egl, osmesa, glfw were tried" in str(drawing.no_backend())
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(drawing, "_works", lambda name: name == "egl")
    assert drawing.choose_backend() == "egl" and os.environ["MUJOCO_GL"] == "egl"


@pytest.mark.parametrize(("old", "new"), [("L_test", "L_tset"), (",score", ",scare")])
def test_a_table_of_other_columns_is_named(old: str, new: str, toy: Path, tmp_path: Path) -> None:
    other = tmp_path / "results"
    shutil.copytree(toy, other)
    table = found(other, "", "", 0) / "episodes.csv"
    table.write_text(table.read_text().replace(old, new, 1))
    assert "episodes.csv: is not what the run wrote" in refused(other, "--out", tmp_path / "x.gif")


def test_an_old_record_is_named(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that the method no longer has."""
    other = tmp_path / "results"
    shutil.copytree(toy, other)
    folder = policy.found(other, "", "", 0)
    note = (folder / "run.json").read_text().replace('"test_flow_steps": {', '"test_flow_stepz": {')
    (folder / "run.json").write_text(note)
    assert "its settings are not those of vgf now" in refused(folder, "--out", tmp_path / "x.gif")
