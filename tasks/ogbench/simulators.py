"""OGBench's simulators: what is known of them without building one, and how those of an arm share their model."""

from __future__ import annotations

import copy
import functools
import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from tasks.core import TaskSpec
from tasks.simulation import physics


def is_manipulation(env_id: str) -> bool:
    """Whether an arm acts in it."""
    return env_id.startswith(("cube", "scene", "puzzle"))


def widths(env_id: str) -> tuple[int, int]:
    """Length of an observation and of an action, without building the environment."""
    family, size = env_id.split("-")[:2]
    match family:
        case "cube":  # the arm's 19, and 9 a cube
            return 19 + 9 * (1 + ["single", "double", "triple", "quadruple"].index(size)), 5
        case "scene":  # a cube, two buttons, drawer and window
            return 19 + 9 + 2 * 4 + 4, 5
        case "puzzle":  # 4 a button
            rows, columns = size.split("x")
            return 19 + 4 * int(rows) * int(columns), 5
    return {"pointmaze": (2, 2), "antmaze": (29, 8), "antsoccer": (42, 8), "humanoidmaze": (69, 21)}[family]


def spec_of(env_id: str) -> TaskSpec:
    """What a method may know of it: widths of a state and an action, and the longest episode."""
    horizon = gymnasium.spec(env_id).max_episode_steps
    assert horizon is not None
    return TaskSpec(*widths(env_id), horizon)


def make(env_id: str, success_timing: str) -> gymnasium.Env[Any, Any]:
    """A simulator, ready to be cloned where an arm acts in it."""
    physics.load()
    env = gymnasium.make(env_id, success_timing=success_timing, disable_env_checker=True)
    if is_manipulation(env_id):
        return SharedModel(env)
    source = Path(env.get_wrapper_attr("fullpath"))  # compiled by now; one would stay behind for each simulator
    if source.parent == Path(tempfile.gettempdir()):
        source.unlink(missing_ok=True)
    return env


class SharedModel(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A manipulation environment whose clones share its compiled model (60 MB, a second to make).

    An episode changes two things in the model besides colours: scenes lock drawer and window by their joints' damping,
    and mark targets by sites. Each clone keeps its own, put in place before every step; `reset` sets them itself.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        base: Any = env.unwrapped
        # OGBench makes a new action space, seeded by the operating system, each time that it samples from it to
        # settle a scene. One that stays can be seeded, and an episode then repeats.
        space = gymnasium.spaces.Box(-1.0, 1.0, (5,), np.float32)
        base.__class__ = type(type(base).__name__, (type(base),), {"action_space": space})
        base.reset(seed=0)  # compiles
        self._now = self._changeable()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        result = super().reset(seed=seed, options=options)
        self._now = self._changeable()
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        model = self.get_wrapper_attr("model")
        model.dof_damping[:], model.site_pos[:] = self._now
        result = super().step(action)
        self._now = self._changeable()
        return result

    def _changeable(self) -> tuple[np.ndarray, np.ndarray]:
        model = self.get_wrapper_attr("model")
        return model.dof_damping.copy(), model.site_pos.copy()


def clone(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """A simulator independent of `env` and equal to it, from `OGBenchTask.make_env`.

    Clones share what is fixed once built: the compiled model, its source, the inverse kinematics (a function of its
    arguments). Everything else is copied. A clone looks at its state once a step. Use clones in one process and one
    thread only.
    """
    base: Any = env.unwrapped
    source = [value for name, value in vars(base).items() if name.endswith(("_jnts", "_acts", "_geoms_list"))]
    memo = {id(shared): shared for shared in (base._mjcf_model, base._model, base._ik, *source)}
    memo[id(base._data)] = copy.copy(base._data)  # a deep copy would copy the model, too
    copied = copy.deepcopy(env, memo)
    made: Any = copied.unwrapped
    made.__class__ = _looks_once(made.__class__)
    return copied


@functools.cache
def _looks_once(kind: Any) -> Any:
    """`kind` of a manipulation environment, but what it finds out about a state it finds out once: its own `step` asks
    three times: for the state acted in, the observation, the info."""
    if hasattr(kind, "_seen"):
        return kind

    class LooksOnce(kind):
        _seen: tuple[float, np.ndarray, np.ndarray, dict[str, Any]] | None = None
        _stepping = False

        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
            self._stepping = True
            try:
                return super().step(action)
            finally:
                self._stepping = False

        def compute_ob_info(self) -> dict[str, Any]:
            if not self._stepping:  # a reset goes through states that differ in more than what is compared below
                self._seen = None
                return super().compute_ob_info()
            data = self._data
            if self._seen is not None:
                time, qpos, qvel, found = self._seen
                if time == data.time and (qpos == data.qpos).all() and (qvel == data.qvel).all():
                    return found
            found = super().compute_ob_info()
            self._seen = data.time, data.qpos.copy(), data.qvel.copy(), found
            return found

    return LooksOnce
