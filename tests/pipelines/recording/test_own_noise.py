"""A pipeline whose own method adds noise to the image that it starts from: compared with a rule, or refused."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")
from fewstep.pipelines.source import load_pipeline
from fewstep.plans.configs.own_noise import OWN_NOISE, OwnNoise
from tests.own_pipeline import CHANNELS, SIDE, OwnPipeline, make
from tests.refusals import refuses

PICTURE = torch.linspace(-1, 1, CHANNELS * SIDE * SIDE).reshape(1, CHANNELS, SIDE, SIDE)


class WithOwnNoise(OwnPipeline):
    """Starts from a picture with the noise of betas from 0.0001 to 0.02 at timestep 998."""

    def add_noise(self, image: Tensor, noise: Tensor) -> Tensor:
        alpha = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)[998]
        return alpha**0.5 * image + (1 - alpha) ** 0.5 * noise

    def begin(self, noise: Tensor) -> Tensor:
        return self.add_noise(PICTURE.expand_as(noise), noise)


def test_samples_are_compared_if_the_class_has_a_rule(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(OWN_NOISE, "WithOwnNoise", OwnNoise(1e-4, 0.02, 1000, -2))
    load_pipeline(make(WithOwnNoise, flow=False), "mine", "0", {})
    assert "mine: samples of WithOwnNoise agree within" in caplog.text
    assert "its samples need --image FILE --strength 1" in caplog.text


def test_another_rule_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OWN_NOISE, "WithOwnNoise", OwnNoise(1e-4, 0.02, 1000, -1))
    with refuses("WithOwnNoise adds other noise to its image than its rule, by"):
        load_pipeline(make(WithOwnNoise, flow=False), "mine", "0", {})


def test_a_class_without_a_rule_is_refused() -> None:
    with refuses("WithOwnNoise adds noise to its image by rules of its own"):
        load_pipeline(make(WithOwnNoise, flow=False), "mine", "0", {})
