"""A pipeline that overwrites a part of x with a noised picture after each step: compared with a hold, or refused."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")
from diffusers import DDIMScheduler

from fewstep.pipelines.recording.call_record import CallRecord, SchedulerStep
from fewstep.pipelines.relations.held_part import find_held_part
from fewstep.pipelines.source import load_pipeline
from fewstep.plans.errors import UserError
from tests.own_pipeline import CHANNELS, SIDE, OwnPipeline, make
from tests.refusals import refuses

PICTURE = torch.linspace(-1, 1, CHANNELS * SIDE * SIDE).reshape(1, CHANNELS, SIDE, SIDE)
LEFT = (torch.arange(SIDE) < SIDE // 2).expand(1, CHANNELS, SIDE, SIDE)


class Inpainting(OwnPipeline):
    """Keeps the left half of a picture, with the noise that x starts from."""

    picture = PICTURE

    def noise_at(self, index: int) -> Tensor:
        return self.noise

    def change(self, x: Tensor, index: int) -> Tensor:
        times = self.scheduler.timesteps
        if index + 1 == len(times):
            return torch.where(LEFT, self.picture, x)
        noised = self.scheduler.scale_noise(PICTURE.expand_as(x), times[index + 1 : index + 2], self.noise_at(index))
        return torch.where(LEFT, noised, x)


class WithOtherNoise(Inpainting):
    """Adds other noise to the picture in each step."""

    def noise_at(self, index: int) -> Tensor:
        return torch.randn(self.noise.shape, generator=torch.Generator().manual_seed(index))


class WithOtherPicture(Inpainting):
    """Ends with another picture than the one in its steps."""

    picture = -PICTURE


class WithCleanPart(OwnPipeline):
    """Keeps the left half of a picture without noise, as DeepFloyd IF does, and starts from the noised picture."""

    def begin(self, noise: Tensor) -> Tensor:
        self.scheduler.set_timesteps(4)
        noised: Tensor = self.scheduler.add_noise(PICTURE.expand_as(noise), noise, self.scheduler.timesteps[:1])
        return torch.where(LEFT, PICTURE, noised)

    def change(self, x: Tensor, index: int) -> Tensor:
        return torch.where(LEFT, PICTURE, x)


class Doubling(OwnPipeline):
    """Doubles x after each step."""

    def change(self, x: Tensor, index: int) -> Tensor:
        return 2 * x


def test_samples_with_a_held_part_are_those_of_the_pipeline(caplog: pytest.LogCaptureFixture) -> None:
    load_pipeline(make(Inpainting), "mine", "0", {})
    assert "mine: samples of Inpainting agree within" in caplog.text
    assert "mine: its pipeline keeps a part of an image; give --image FILE --known MASK, or hold=" in caplog.text


def test_a_part_may_be_kept_without_noise(caplog: pytest.LogCaptureFixture) -> None:
    made = make(WithCleanPart, flow=False)
    made.scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")  # the first time is always 999
    load_pipeline(made, "mine", "0", {})
    assert "mine: samples of WithCleanPart agree within" in caplog.text
    assert "mine: its first x contains a part of the image, so that its samples need --image" in caplog.text
    assert "keeps a part of an image, without noise; give hold=Hold(image, mask, clean=True)" in caplog.text


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (WithOtherNoise, "the plan of WithOtherNoise's scheduler feeds its network a different x in step 2 of 8"),
        (WithOtherPicture, "the samples of WithOtherPicture and of its scheduler's plan differ by"),
        (Doubling, "Doubling changes all of x after each step"),
    ],
)
def test_other_changes_of_x_are_refused(form: type[OwnPipeline], says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_pipeline(make(form), "mine", "0", {})


def steps(*held: Tensor) -> CallRecord:
    """Return steps that return zeros, each followed by ones in a held part."""
    x = torch.zeros(held[0].shape)
    samples = [x, *(torch.where(each, 1.0, 0.0) for each in held)]
    return CallRecord(tuple(SchedulerStep((), x, float(number), sample, x) for number, sample in enumerate(samples)))


def test_the_held_part_is_where_x_is_not_what_the_scheduler_returned() -> None:
    found = find_held_part("Pipe", steps(LEFT, LEFT))
    assert found is not None and torch.equal(found, LEFT)


def test_nothing_is_held_if_each_step_begins_where_the_last_one_ended() -> None:
    assert find_held_part("Pipe", steps(LEFT & ~LEFT, LEFT & ~LEFT)) is None


def test_a_part_that_changes_with_the_step_is_refused() -> None:
    with refuses("Pipe changes different parts of x"):
        find_held_part("Pipe", steps(LEFT, ~LEFT))


def test_a_step_that_cuts_x_is_refused() -> None:
    first, second, third = steps(LEFT, LEFT).steps
    with refuses("Pipe changes the shape of x between steps"):
        find_held_part("Pipe", CallRecord((first, replace(second, sample=second.sample[:, :2]), third)))
