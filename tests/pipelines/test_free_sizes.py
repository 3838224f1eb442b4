"""Free sizes of x of a pipeline in memory, by its own call at other sizes."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor

from fewstep.export.options.size_option import with_sizes
from fewstep.export.spec import Source
from fewstep.pipelines import free_sizes
from fewstep.pipelines.source import load_pipeline
from tests.own_pipeline import CHANNELS, OwnNetwork, OwnPipeline, make
from tests.refusals import refuses

SIZES = ("height=4:16:2", "width=4:16:2")


class Sized(OwnPipeline):
    """x has one pixel for 4 by 4 of the call."""

    def label(self, prompt: str, height: int, width: int) -> Tensor:
        return torch.tensor([[sum(map(ord, prompt)) % n / n for n in (7, 11, 13, 17)]])

    def scale(self, guidance_scale: float, height: int) -> float:
        return guidance_scale

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
        label = self.label(prompt, height, width)
        self.scheduler.set_timesteps(num_inference_steps)
        for time in self.scheduler.timesteps:
            with_label, without = self.predict(x, time, label), self.predict(x, time, torch.zeros_like(label))
            guided = without + self.scale(guidance_scale, height) * (with_label - without)
            x = self.scheduler.step(guided, time, x, return_dict=False)[0]
        return (x,)


class LabelOfHeight(Sized):
    """The network gets the height as a part of its condition."""

    def label(self, prompt: str, height: int, width: int) -> Tensor:
        return super().label(prompt, height, width) + height / 100


class Turned(Sized):
    """The network gets wide pictures with their rows in reverse order."""

    def predict(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        if x.shape[-1] == x.shape[-2]:
            return super().predict(x, time, label)
        return super().predict(x.flip(-2), time, label).flip(-2)


class LaterLabelOfHeight(Sized):
    """Only the second call of the network in each step gets the height."""

    def predict(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return super().predict(x, time, label if label.any() else label + x.shape[-2] / 100)


class ShiftOfArea(Sized):
    """The times follow the number of pixels."""

    def label(self, prompt: str, height: int, width: int) -> Tensor:
        self.scheduler.set_shift(height * width / 1024)
        return super().label(prompt, height, width)


class Scaled(Sized):
    """What the network predicts is doubled for high pictures."""

    def predict(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return super().predict(x, time, label) * (2 if x.shape[-2] > 8 else 1)


class Guided(Sized):
    """High pictures have less guidance."""

    def scale(self, guidance_scale: float, height: int) -> float:
        return guidance_scale if height <= 32 else 2.0


class TokensNetwork(OwnNetwork):
    def forward(self, sample: Tensor, timestep: Tensor, label: Tensor, tokens: Tensor | None = None) -> Tensor:
        return super().forward(sample, timestep, label + (0 if tokens is None else tokens.mean(1)))


class Tokens(Sized):
    """The network gets a token for each 4 pixels, which follow the prompt."""

    def predict(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        tokens = label[:, None].repeat(1, x.shape[-1] * x.shape[-2] // 4, 1)
        made: Tensor = self.net(x, time.expand(len(x)).float(), label, tokens)
        return made


class RowsNetwork(OwnNetwork):
    def forward(self, sample: Tensor, timestep: Tensor, label: Tensor, rows: int) -> Tensor:
        return super().forward(sample, timestep, label + rows / 100)


class HalfOfHeight(Sized):
    """The network gets half of the height, rounded up."""

    def predict(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        made: Tensor = self.net(x, time.expand(len(x)).float(), label, rows=-(-x.shape[-2] // 2))
        return made


class MoreForHigh(Sized):
    """The network gets a further argument for high pictures."""

    def predict(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        more = {"tokens": label[:, None]} if x.shape[-2] > 8 else {}
        made: Tensor = self.net(x, time.expand(len(x)).float(), label, **more)
        return made


def size(pipeline: OwnPipeline, sizes: Sequence[str] = SIZES) -> Source:
    return with_sizes(load_pipeline(pipeline, "mine", "0", {}), sizes)


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


def test_an_argument_of_any_call_that_follows_the_size_is_refused() -> None:
    with refuses("--size: LaterLabelOfHeight: the network's argument ['label'] follows the size of x"):
        size(make(LaterLabelOfHeight))


@pytest.mark.parametrize("form", [Tokens, MoreForHigh])
def test_a_condition_whose_shape_a_bundle_does_not_know_is_refused(form: type[Sized]) -> None:
    torch.manual_seed(0)
    with refuses(f"--size: {form.__name__}: the network's argument ['tokens'] follows the size of x"):
        size(form(TokensNetwork(), FlowMatchEulerDiscreteScheduler()))


def test_a_half_that_is_rounded_up_is_refused_if_any_size_is_odd() -> None:
    torch.manual_seed(0)
    pipeline = HalfOfHeight(RowsNetwork(), FlowMatchEulerDiscreteScheduler())
    size(pipeline, ("height=8:16:2",))
    with refuses("--size: HalfOfHeight: the network's argument ['rows'] follows the size of x"):
        size(pipeline, ("height=8:10:1",))


def test_times_that_follow_the_number_of_pixels_are_refused() -> None:
    """The size at which samples are compared has as many pixels as the usual one."""
    with refuses("--size: ShiftOfArea steps at time"):
        size(make(ShiftOfArea))


def test_a_prediction_that_is_scaled_at_other_sizes_is_refused() -> None:
    with refuses("--size: Scaled: the weights of its network's outputs sum to 2"):
        size(make(Scaled))


def test_other_guidance_at_other_sizes_is_refused() -> None:
    with refuses("--size: Guided combines its network's outputs with other weights at other sizes"):
        size(make(Guided))


def test_the_calls_of_a_large_network_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_sizes, "are_comparable", lambda network: False)
    with refuses("--size: ShiftOfArea steps at time"):
        size(make(ShiftOfArea))


def test_a_range_of_the_usual_size_alone_is_not_compared() -> None:
    (only,) = size(make(Sized), ("height=8:8:1",)).spec.sizes
    assert (only.low, only.high) == (8, 8)


def test_a_call_of_one_size_is_refused() -> None:
    with refuses("--size: no height of OwnPipeline changes", "leave --size out"):
        size(make(OwnPipeline))
