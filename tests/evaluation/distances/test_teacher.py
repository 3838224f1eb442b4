"""The teacher that is taken where none is asked for."""

from pathlib import Path

import msgspec
import pytest

from fewstep.evaluation.distances.teacher import teacher_plan
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import TensorEntry
from fewstep.runtime.loading import load
from fewstep.runtime.sampler import Sampler


def scheduled(folder: Path, schedule: ScheduleSpec) -> Sampler:
    """The tiny denoiser as if it had been trained on another schedule."""
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes())
    manifest["schedule"] = msgspec.to_builtins(schedule)
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return load(folder)


@pytest.mark.parametrize(
    ("schedule", "name"),
    [
        (ScheduleSpec("cosine", timesteps=1000), "dpmpp_2m:200"),
        (ScheduleSpec("cosine", timesteps=100), "dpmpp_2m:100"),  # a policy's
        (ScheduleSpec("trigonometric"), "dpmpp_2m:200"),
    ],
)
def test_it_has_two_hundred_steps_or_all_timesteps(tiny_bundle: Path, schedule: ScheduleSpec, name: str) -> None:
    sampler = scheduled(tiny_bundle, schedule)
    assert teacher_plan(sampler, None, None).name == name
    assert teacher_plan(sampler, "ddim:7", None).name == "ddim:7"


def test_a_network_that_is_told_two_times_has_a_teacher_that_tells_them(tiny_bundle: Path) -> None:
    sampler = load(tiny_bundle)
    prologue = sampler.bundle.manifest.prologue
    assert prologue is not None
    told = msgspec.structs.replace(prologue, inputs=(*prologue.inputs, TensorEntry("to", "to", ("batch",))))
    object.__setattr__(sampler.bundle, "manifest", msgspec.structs.replace(sampler.bundle.manifest, prologue=told))
    assert teacher_plan(sampler, None, None).name == "ctm:100"
