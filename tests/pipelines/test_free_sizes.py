"""Free sizes of x of a pipeline in memory, by its own call at other sizes."""

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")
from diffusers.utils.torch_utils import randn_tensor

from fewstep.export.options.size_option import with_sizes
from fewstep.export.spec import Source
from fewstep.pipelines.source import load_pipeline
from tests.own_pipeline import CHANNELS, OwnPipeline, make
from tests.refusals import refuses

SIZES = ("height=4:16:2", "width=4:16:2")


class Sized(OwnPipeline):
    """x has one pixel for 4 by 4 of the call."""

    def label(self, prompt: str, height: int) -> Tensor:
        return torch.tensor([[sum(map(ord, prompt)) % n / n for n in (7, 11, 13, 17)]])

    def resize(self, x: Tensor) -> Tensor:
        """Return x as the network gets it."""
        return x

    @torch.no_grad()
    def __call__(
        self,
        prompt: str,
        height: int = 32,
        width: int = 32,
        num_inference_steps: int = 10,
        guidance_scale: float = 3.0,
        generator: Any = None,
    ) -> tuple[Tensor]:
        x = randn_tensor((1, CHANNELS, height // 4, width // 4), generator=generator)
        label = self.label(prompt, height)
        self.scheduler.set_timesteps(num_inference_steps)
        for time in self.scheduler.timesteps:
            inputs = self.resize(x)
            with_label, without = (self.predict(inputs, time, each) for each in (label, torch.zeros_like(label)))
            x = self.scheduler.step(without + guidance_scale * (with_label - without), time, x, return_dict=False)[0]
        return (x,)


class LabelOfHeight(Sized):
    """The network gets the height as a part of its condition."""

    def label(self, prompt: str, height: int) -> Tensor:
        return super().label(prompt, height) + height / 100


class Turned(Sized):
    """The network gets wide pictures with their rows in reverse order."""

    def predict(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        if x.shape[-1] == x.shape[-2]:
            return super().predict(x, time, label)
        return super().predict(x.flip(-2), time, label).flip(-2)


def size(pipeline: OwnPipeline) -> Source:
    return with_sizes(load_pipeline(pipeline, "mine", "0", {}), SIZES)


def test_samples_are_compared_at_another_size_whose_axes_differ(caplog: pytest.LogCaptureFixture) -> None:
    sizes = size(make(Sized)).spec.sizes
    assert [(each.axis, each.low, each.high, each.multiple) for each in sizes] == [(1, 4, 16, 2), (2, 4, 16, 2)]
    assert "mine: samples of x [3, 4, 16] agree within" in caplog.text


def test_a_condition_that_follows_the_size_is_refused() -> None:
    with refuses("--size: LabelOfHeight: the network's argument ['label'] follows the size of x", "leave --size out"):
        size(make(LabelOfHeight))


def test_a_pipeline_that_does_something_else_at_other_sizes_is_refused() -> None:
    with refuses("--size: ", "leave --size out"):
        size(make(Turned))


def test_a_call_of_one_size_is_refused() -> None:
    with refuses("--size: no height of OwnPipeline changes", "leave --size out"):
        size(make(OwnPipeline))
