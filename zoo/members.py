"""The denoisers of the zoo and those that come with fewstep, for benchmarks. Torch is only imported when a recipe is
used."""

import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent
CALIBRATION, HELD_OUT = 0, 1  # first seed of conditions that fewstep cannot draw


@dataclass(frozen=True)
class Member:
    """A trained denoiser of this folder, and how it is sampled by default. `needs` is a module besides torch that its
    network uses."""

    name: str
    plan: str
    guidance: float | None = None
    needs: str | None = None

    @property
    def source(self) -> str:
        """The SOURCE argument of `fewstep export`."""
        return f"{FOLDER / self.name}.py:make"

    @property
    def weights(self) -> Path:
        """The path of its trained weights."""
        return FOLDER / f"{self.name}.safetensors"

    @property
    def steps(self) -> int:
        """The number of steps of its plan."""
        return int(self.plan.partition("@")[0].rpartition(":")[2])

    def along(self, steps: int, grid: str | None = None) -> str:
        """Return its plan with another number of steps, on this grid if the plan names none."""
        plan = re.sub(r":\d+", f":{steps}", self.plan, count=1)
        return plan if grid is None or "@" in plan else f"{plan}@{grid}"

    def recipe(self) -> ModuleType:
        """Import its file as a module: SPEC, RECIPE, DATA, network, make. This imports torch."""
        if str(FOLDER) not in sys.path:
            sys.path.append(str(FOLDER))  # recipes import modules of their folder
        return importlib.import_module(self.name)

    def rows(self, count: int, seed: int) -> dict[str, NDArray[np.float32]] | None:
        """Return conditions [count, *shape] by name, as in a file for `calibrate --conditions`; None if random ones,
        which fewstep draws itself, are those of the training."""
        make = getattr(self.recipe(), "rows", None)
        return None if make is None else make(count, seed)


MEMBERS = (
    Member("dit_flow", "dpmpp_2m:8", guidance=2.0),
    Member("policy_unet1d", "dpmpp_2m:8"),
    Member("speech_ncsn", "dpmpp_2m:8"),
    Member("unet_epsilon_linear", "dpmpp_2m:8", needs="diffusers"),
    Member("unet_edm_cifar", "dpmpp_2m:8@karras", guidance=1.5),
    Member("convnext_v_cosine", "dpmpp_2m:8", guidance=2.0),
    Member("nafnet_residual", "dpmpp_2m:8"),  # held out: trained last, and not used for any decision about calibration
    Member("text_unet_flow", "dpmpp_2m:8", guidance=3.0),  # the only one that takes a text
)
HARD = (  # difficult for int8: outliers, streams without norms, few steps, quiet signals
    Member("consistency_edm", "ddim:1"),
    Member("residual_outliers", "dpmpp_2m:2", guidance=2.0),
    Member("quiet_waves", "dpmpp_2m:8"),
    Member("score_wide", "dpmpp_2m:8"),  # held out: not used to decide what stays in float
)
LARGE = (  # trained after all decisions; too large for loops
    Member("cifar10_dit", "dpmpp_2m:8", guidance=1.5),
    Member("sound", "dpmpp_2m:8", guidance=1.0),  # the only one of recorded sound
)
BY_NAME = {member.name: member for member in (*MEMBERS, *HARD, *LARGE)}


@dataclass(frozen=True)
class Shipped(Member):
    """A denoiser that comes with fewstep, whose name `fewstep export` accepts."""

    @property
    def source(self) -> str:
        return self.name

    @property
    def weights(self) -> Path:
        return FOLDER.parent / "models" / self.name / f"{self.name}.safetensors"

    def rows(self, count: int, seed: int) -> None:
        return None


SHIPPED = (Shipped("fashion_mnist", "dpmpp_2m:8", guidance=2.0), Shipped("cifar10", "dpmpp_2m:8"))
