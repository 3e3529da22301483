"""Pictures of MuJoCo simulators, without a display where there is none.

Needs a build of OpenGL that draws off screen: `choose_backend` finds one before MuJoCo is imported.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import warnings
from typing import Any

import numpy as np

from tasks.core import BadInput

BACKENDS = ("egl", "osmesa", "glfw")
"""Values of MUJOCO_GL, in the order tried: the graphics card or Mesa without a display, Mesa's software, a window."""
TRY_S = 60.0
_TRIAL = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 8, 8) as renderer:
    renderer.update_scene(data)
    assert renderer.render().shape == (8, 8, 3)
"""
CAMERAS = ("front_pixels", "front", "track")
"""The model's own, in the order preferred; of a maze there is one from above."""
PATH, GOAL = (0.9, 0.35, 0.0, 1.0), (0.0, 0.6, 0.2, 0.9)
FEWEST = 0.02  # of the picture's height, that the body moves before its path gets a piece more


def choose_backend() -> str:
    """Sets MUJOCO_GL to what draws here, the user's own choice first, and returns it; "" where nothing does. To be
    called before MuJoCo is imported, as that settles it."""
    for name in _choices():
        if _works(name):
            os.environ["MUJOCO_GL"] = name
            return name
    return ""


def no_backend() -> BadInput:
    """What to say where nothing draws."""
    return BadInput(f"nothing draws here (MUJOCO_GL={', '.join(_choices())} were tried): install Mesa's EGL or OSMesa, "
                    "which need no display (Debian: libegl1 libgl1-mesa-dri, or libosmesa6)")  # fmt: skip


def _choices() -> list[str]:
    wish = os.environ.get("MUJOCO_GL", "")
    return list(dict.fromkeys(name for name in (wish, *BACKENDS) if name not in ("", "disable")))


def _works(name: str) -> bool:
    """In a process of its own, which a bad driver may end."""
    with contextlib.suppress(subprocess.TimeoutExpired, OSError), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # JAX's on forks: here another program follows at once
        done = subprocess.run(
            [sys.executable, "-c", _TRIAL], env={**os.environ, "MUJOCO_GL": name}, capture_output=True, timeout=TRY_S
        )
        return done.returncode == 0
    return False


class Drawing:
    """Frames of one simulator, from its `reset` on. Of a maze the view is from above, with the path so far."""

    def __init__(self, env: Any, width: int, height: int) -> None:
        """Raises: BadInput: the simulator is not MuJoCo's."""
        import mujoco

        self._mujoco: Any = mujoco
        base = env.unwrapped
        self._maze = base if hasattr(base, "maze_map") or hasattr(base, "maze") else None
        body = getattr(base, "ant_env", base)
        body = getattr(body, "unwrapped", body)
        model = getattr(body, "model", None)
        if not isinstance(model, mujoco.MjModel):
            model = getattr(body, "_model", None)
        if not isinstance(model, mujoco.MjModel):
            raise BadInput(f"{type(base).__name__}: is no MuJoCo simulator, so there is nothing to draw")
        self._body, self._model, self._height = body, model, height
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        self._renderer = mujoco.Renderer(model, height, width)
        self._path: list[np.ndarray] = []
        self._camera: Any = self._above() if self._maze is not None else self._own()

    def close(self) -> None:
        self._renderer.close()

    def restart(self) -> None:
        """For the next episode."""
        self._path = []

    def follow(self) -> None:
        """Notes where the body is, for its path in a maze: after every step, drawn or not."""
        if self._maze is not None:
            place = np.array(self._data.qpos[:2])
            if not self._path or np.linalg.norm(place - self._path[-1]) > FEWEST * self._scale:
                self._path.append(place)

    @property
    def _data(self) -> Any:
        data = getattr(self._body, "data", None)
        return data if isinstance(data, self._mujoco.MjData) else self._body._data

    def frame(self) -> np.ndarray:
        """What there is to see now, `[height, width, 3]` uint8."""
        self.follow()
        self._renderer.update_scene(self._data, self._camera)
        if self._maze is not None:
            self._trace()
        return np.array(self._renderer.render())

    def _own(self) -> Any:
        names = [self._model.camera(number).name for number in range(self._model.ncam)]
        return next((name for name in CAMERAS if name in names), -1)

    def _above(self) -> Any:
        """Right above the middle of all boxes, so high that all are seen."""
        boxes = [number for number in range(self._model.ngeom)
                 if self._model.geom_type[number] == self._mujoco.mjtGeom.mjGEOM_BOX
                 and self._model.geom_bodyid[number] == 0] or list(range(self._model.ngeom))  # fmt: skip
        centre, size = self._model.geom_pos[boxes][:, :2], self._model.geom_size[boxes][:, :2]
        low, high = (centre - size).min(axis=0), (centre + size).max(axis=0)
        camera = self._mujoco.MjvCamera()
        camera.type = self._mujoco.mjtCamera.mjCAMERA_FREE
        camera.lookat[:] = [*((low + high) / 2), 0.0]
        aspect = self._renderer.width / self._renderer.height
        half = max((high - low)[1], (high - low)[0] / aspect) / 2
        camera.distance = 1.08 * half / np.tan(np.deg2rad(self._model.vis.global_.fovy / 2))
        camera.elevation, camera.azimuth = -90.0, 90.0
        self._scale = half
        return camera

    def _trace(self) -> None:
        """Adds the path, and the goal, to the scene."""
        place = np.array(self._data.qpos[:2])
        height, thick = 0.05 * self._scale, 0.012 * self._scale
        for before, after in zip(self._path, [*self._path[1:], place], strict=True):
            geom = self._new(self._mujoco.mjtGeom.mjGEOM_CAPSULE, np.zeros(3), (thick, thick, thick), PATH)
            if geom is None:
                return
            ends = np.array([*before, height]), np.array([*after, height])
            self._mujoco.mjv_connector(geom, self._mujoco.mjtGeom.mjGEOM_CAPSULE, thick, *ends)
        goal = getattr(self._maze, "cur_goal_xy", None)
        goal = getattr(self._maze, "goal", None) if goal is None else goal
        if goal is not None:
            self._new(self._mujoco.mjtGeom.mjGEOM_SPHERE, np.array([*goal[:2], height]), (3 * thick,) * 3, GOAL)

    def _new(self, kind: Any, place: np.ndarray, size: Any, colour: Any) -> Any:
        """One more geom of the scene; None where it is full."""
        scene = self._renderer.scene
        if scene.ngeom >= scene.maxgeom:
            return None
        geom = scene.geoms[scene.ngeom]
        self._mujoco.mjv_initGeom(geom, kind, np.array(size, float), place.astype(float), np.eye(3).ravel(),
                                  np.array(colour, np.float32))  # fmt: skip
        scene.ngeom += 1
        return geom
