"""Arguments of a network that a call draws once, such as the noised embedding of unCLIP's picture."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")
from diffusers import FlowMatchEulerDiscreteScheduler

from fewstep.export.sources.torch_module import TorchSource
from fewstep.pipelines.source import load_pipeline
from tests.own_pipeline import OwnNetwork, OwnPipeline
from tests.refusals import refuses


class NoisedNetwork(OwnNetwork):
    def forward(self, sample: Tensor, timestep: Tensor, label: Tensor, noised: Tensor) -> Tensor:
        return super().forward(sample, timestep, label + noised)


class Noised(OwnPipeline):
    """The network gets an embedding with noise, the same in each step."""

    def predict(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        made: Tensor = self.net(x, time.expand(len(x)).float(), label, noised=0.1 * self.noise[:, 0, 0, 2:6] ** 2)
        return made


class StartNetwork(OwnNetwork):
    def forward(self, sample: Tensor, timestep: Tensor, label: Tensor, start: Tensor) -> Tensor:
        return super().forward(sample + start, timestep, label)


class WithStart(OwnPipeline):
    """The network gets the first x in each step."""

    def predict(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        made: Tensor = self.net(x, time.expand(len(x)).float(), label, start=2 * self.noise)
        return made


def load(form: type[OwnPipeline], network: type[OwnNetwork]) -> TorchSource:
    torch.manual_seed(0)
    return load_pipeline(form(network(), FlowMatchEulerDiscreteScheduler()), "mine", "0", {})


def test_an_argument_that_changes_with_the_noise_but_not_with_the_step_is_a_condition() -> None:
    _, condition = load(Noised, NoisedNetwork).spec.conditions
    assert (condition.name, condition.shape, condition.default) == ("noised", (4,), None)


def test_the_first_x_is_no_condition_since_a_run_draws_it() -> None:
    with refuses("WithStart passes its first x to its network in each step, as ['start']"):
        load(WithStart, StartNetwork)
