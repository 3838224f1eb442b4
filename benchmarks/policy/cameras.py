"""Two cameras, in front of and beside a robot of Fetch, and the picture of its goal, a red ball."""

import functools
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.policy.worlds import Pictures

SIZE = 64  # pixels of a side
AZIMUTHS = {"observation.images.front": 180.0, "observation.images.side": 90.0}  # degrees
ELEVATION = -22.0
MIDDLE, DISTANCE = (1.34, 0.75, 0.55), 0.85  # metres: all places of the goal are within the pictures
EFFECTS = ("SHADOW", "REFLECTION", "SKYBOX")  # take time, and are left out


class Cameras:
    """The cameras of one environment of gymnasium-robotics. `MUJOCO_GL` names what draws, such as egl or osmesa."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._renderer = _renderer_of(environment.fullpath)

    def draw(self) -> Pictures:
        """Return a picture [3, SIZE, SIZE] of each camera."""
        self._environment._render_callback()  # moves the red ball to the goal
        return {name: self._picture(azimuth) for name, azimuth in AZIMUTHS.items()}

    def _picture(self, azimuth: float) -> NDArray[np.uint8]:
        mujoco = import_module("mujoco")
        camera = mujoco.MjvCamera()
        camera.lookat[:] = MIDDLE
        camera.azimuth, camera.elevation, camera.distance = azimuth, ELEVATION, DISTANCE
        scene, all_ = self._renderer.scene, mujoco.mjtCatBit.mjCAT_ALL
        model, data = self._environment.model, self._environment.data
        mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, camera, all_, scene)
        return np.ascontiguousarray(self._renderer.render().transpose(2, 0, 1))


@functools.cache
def _renderer_of(model: str) -> Any:
    """Return what draws all environments of a model's file: its meshes take 100 MB."""
    mujoco = import_module("mujoco")
    renderer = mujoco.Renderer(mujoco.MjModel.from_xml_path(model), SIZE, SIZE)
    for effect in EFFECTS:
        renderer.scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{effect}")] = 0
    return renderer
