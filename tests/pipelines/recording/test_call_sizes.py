"""Arguments of a pipeline's call that choose the sizes of x."""

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")
from diffusers.utils.torch_utils import randn_tensor

from fewstep.pipelines.recording.call_sizes import CallSizes, SizeArgument, find_call_sizes, refuse_ignored_size
from fewstep.pipelines.recording.components import BuiltPipeline
from fewstep.pipelines.recording.live import build_from_pipeline
from tests.own_pipeline import CHANNELS, OwnPipeline, make
from tests.refusals import refuses

USUAL = {"prompt": "a", "num_inference_steps": 2}


class Sized(OwnPipeline):
    """x has a pixel for 4 by 2 pixels of the call, and a frame for its first and for each 4 after it."""

    @torch.no_grad()
    def __call__(
        self,
        prompt: Any,
        height: int = 32,
        width: int = 16,
        num_frames: int = 5,
        num_inference_steps: int = 10,
        generator: Any = None,
    ) -> tuple[Tensor]:
        if height % 8:
            raise ValueError("height is no multiple of 8")
        shape = (1, CHANNELS, 1 + (num_frames - 1) // 4, height // 4, width // 2)
        x = randn_tensor(shape, generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for time in self.scheduler.timesteps:
            predicted = self.net(x[:, :, 0], time[None].float(), torch.zeros(1, 4))[:, :, None].expand_as(x)
            x = self.scheduler.step(predicted, time, x, return_dict=False)[0]
        return (x,)


@pytest.fixture(scope="module")
def built() -> BuiltPipeline:
    return build_from_pipeline(make(Sized), "mine")


def find(built: BuiltPipeline, axis: int, *lengths: int) -> CallSizes:
    return find_call_sizes(built, USUAL, (CHANNELS, 2, 8, 8), {axis: lengths})


def test_the_height_is_a_multiple_of_an_axis(built: BuiltPipeline) -> None:
    assert find(built, 2, 10).arguments == {2: SizeArgument("height", 4)}


def test_the_width_is_another_multiple_of_the_last_axis(built: BuiltPipeline) -> None:
    assert find(built, 3, 10).arguments == {3: SizeArgument("width", 2)}


def test_the_first_frame_of_a_causal_autoencoder_is_single(built: BuiltPipeline) -> None:
    assert find(built, 1, 5).arguments == {1: SizeArgument("num_frames", 4, is_first_single=True)}


def test_twice_the_usual_length_is_tried_if_the_call_refuses_the_others(built: BuiltPipeline) -> None:
    assert find(built, 2, 9).arguments == {2: SizeArgument("height", 4)}


def test_the_arguments_for_a_shape(built: BuiltPipeline) -> None:
    sizes = CallSizes({1: SizeArgument("num_frames", 4, is_first_single=True), 2: SizeArgument("height", 4)})
    assert sizes.settings((CHANNELS, 4, 6, 8)) == {"num_frames": 13, "height": 24}


def test_an_axis_that_no_argument_chooses_is_refused() -> None:
    built = build_from_pipeline(make(OwnPipeline), "mine")
    with refuses("no height of OwnPipeline changes the length of axis 1 of x, [3, 8, 8]"):
        find_call_sizes(built, USUAL, (CHANNELS, 8, 8), {1: (12,)})


class SizedByBoth(OwnPipeline):
    """Takes a height only with a width, as Stable Diffusion does."""

    @torch.no_grad()
    def __call__(
        self, prompt: Any, height: Any = None, width: Any = None, num_inference_steps: int = 10, generator: Any = None
    ) -> tuple[Tensor]:
        if not height or not width:
            height = width = 64
        x = randn_tensor((1, CHANNELS, height // 8, width // 8), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for time in self.scheduler.timesteps:
            x = self.scheduler.step(self.net(x, time[None].float(), torch.zeros(1, 4)), time, x, return_dict=False)[0]
        return (x,)


@pytest.fixture(scope="module")
def built_by_both() -> BuiltPipeline:
    return build_from_pipeline(make(SizedByBoth), "mine")


def test_a_height_that_needs_a_width_is_found_with_it(built_by_both: BuiltPipeline) -> None:
    sizes = find_call_sizes(built_by_both, USUAL, (CHANNELS, 8, 8), {1: (12,)})
    assert sizes.settings((CHANNELS, 12, 8)) == {"height": 96, "width": 64}


def test_a_height_that_the_call_ignores_is_refused(built_by_both: BuiltPipeline) -> None:
    given = {"height": 128}
    with refuses("ignores --call height=128 without a width", "--call height=128 --call width=128"):
        refuse_ignored_size(built_by_both, {**USUAL, **given}, (CHANNELS, 8, 8), given)


def test_a_height_that_the_call_takes_alone_is_not_refused(built: BuiltPipeline) -> None:
    refuse_ignored_size(built, {**USUAL, "height": 32}, (CHANNELS, 2, 8, 8), {"height": 32})
