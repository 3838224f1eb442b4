"""Networks of diffusers under fewstep's signature."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep.pipelines.listed.interface import AESTHETIC_SCORE, TIME_IDS, Interface
from fewstep.pipelines.listed.network import ConditionedNetwork

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
