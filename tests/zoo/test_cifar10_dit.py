"""The transformer on CIFAR-10: its patches, its times and its loss."""

import cifar10_dit
import pytest
import torch
from denoising import Batch
from torch.nn import functional as F


def test_patches_are_joined_as_fold_does() -> None:
    patches = torch.randn(2, 256, 12)
    assert torch.equal(cifar10_dit.Network().join_patches(patches), F.fold(patches.transpose(1, 2), 32, 2, stride=2))


def test_half_of_the_times_are_uniform_and_half_logit_normal() -> None:
    shares = cifar10_dit.draw_shares(200_000, torch.Generator().manual_seed(0))
    beyond = (shares > 0.9).float()  # of a logit-normal time: P(z > log 9) = 0.0140
    assert beyond[1::2].mean().item() == pytest.approx(0.1, abs=0.005)
    assert beyond[::2].mean().item() == pytest.approx(0.0140, abs=0.002)


def test_the_loss_of_the_true_velocity_is_zero() -> None:
    """For samples of one value, the velocity follows from x: (x - x0) / t."""

    def draw(count: int, generator: torch.Generator) -> Batch:
        return Batch(torch.full((count, 3, 32, 32), 0.25), (torch.zeros(count, dtype=torch.long),))

    class Exact(torch.nn.Module):
        def forward(self, x: torch.Tensor, time: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
            return (x - 0.25) / (time / 1000)[:, None, None, None]

    assert cifar10_dit.loss(draw, 8)(Exact(), torch.Generator().manual_seed(1)).item() < 1e-6


def test_it_has_less_than_eight_million_weights() -> None:
    assert sum(parameter.numel() for parameter in cifar10_dit.Network().parameters()) < 8_000_000
