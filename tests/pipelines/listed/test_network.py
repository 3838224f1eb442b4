"""Networks of diffusers under fewstep's signature."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep.pipelines.listed.control import CONTROL, CONTROL_SCALE, CONTROLNET
from fewstep.pipelines.listed.interface import AESTHETIC_SCORE, TIME_IDS, Interface
from fewstep.pipelines.listed.network import ConditionedNetwork, ControlledUNet

pytest.importorskip("diffusers")


class Recorder(nn.Module):
    """A network that returns x, and keeps its other arguments."""

    def forward(self, sample: Tensor, **arguments: Any) -> tuple[Tensor]:
        self.arguments = arguments
        return (sample,)


def test_an_aesthetic_score_is_the_last_of_the_time_ids() -> None:
    network = Recorder()
    module = ConditionedNetwork(network, Interface((4, 2, 2), arguments=(TIME_IDS, AESTHETIC_SCORE)))
    sizes = torch.tensor([[64.0, 32.0, 0.0, 0.0], [64.0, 32.0, 8.0, 0.0]])
    module(torch.zeros(2, 4, 2, 2), torch.zeros(2), sizes, torch.tensor([6.0, 2.5]))
    assert set(network.arguments["added_cond_kwargs"]) == {"time_ids"}
    expected = [[64, 32, 0, 0, 6], [64, 32, 8, 0, 2.5]]
    assert network.arguments["added_cond_kwargs"]["time_ids"].tolist() == expected


class Control(nn.Module):
    """A ControlNet: no pipeline passes it an embedded guidance weight, which it could not read."""

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        encoder_hidden_states: Tensor,
        controlnet_cond: Tensor,
        conditioning_scale: Tensor,
        return_dict: bool,
    ) -> tuple[Any, Tensor]:
        return (), x + encoder_hidden_states.mean() + controlnet_cond.mean()


class UNet(nn.Module):
    def forward(self, sample: Tensor, mid_block_additional_residual: Tensor, **others: Any) -> tuple[Tensor]:
        return (mid_block_additional_residual + others["timestep_cond"].mean(),)


def test_a_control_net_is_not_given_the_guidance_weight_of_a_distilled_network() -> None:
    x, picture = torch.zeros(1, 4, 2, 2), torch.ones(1, 3, 2, 2)
    arguments = ("encoder_hidden_states", "timestep_cond", CONTROL, CONTROL_SCALE)
    network = ControlledUNet(UNet(), Control(), CONTROLNET, Interface((4, 2, 2), (), arguments))
    made = network(x, torch.zeros(1), torch.full((1, 2, 3), 2.0), torch.full((1, 5), 4.0), picture, torch.ones(1))
    assert torch.equal(made, torch.full((1, 4, 2, 2), 7.0))
