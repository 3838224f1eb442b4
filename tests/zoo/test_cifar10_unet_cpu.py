"""The U-Net that a CPU trains: it starts from what the shipped denoiser has learnt."""

import cifar10_unet_cpu
import pytest
import torch
from members import SHIPPED

from fewstep.models.cifar10.unet import load


@pytest.mark.slow  # fits the time features for some seconds
@torch.no_grad()
def test_its_start_answers_as_the_shipped_denoiser_with_the_other_sign() -> None:
    """At sigma 1, which is time 0.5 of a straight path, on noise."""
    torch.manual_seed(0)
    with torch.enable_grad():
        network = cifar10_unet_cpu.network()
    shipped = load(next(member.weights for member in SHIPPED if member.name == "cifar10"))
    x, label = torch.randn(4, 3, 32, 32), torch.arange(4)
    answer, expected = network(x, torch.zeros(4), label), -shipped(x, torch.full((4,), 500.0), label)
    assert (answer - expected).square().mean() < 0.05 * expected.square().mean()


def test_its_size_is_eight_to_fifteen_million_weights() -> None:
    assert 8e6 < sum(parameter.numel() for parameter in cifar10_unet_cpu.make.network().parameters()) < 15e6
