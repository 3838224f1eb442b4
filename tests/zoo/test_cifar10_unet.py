"""The U-Net on CIFAR-10: its loss is that of its spec, and it trains."""

from pathlib import Path

import cifar10_unet
import torch
from denoising import Batch, loss_of

from fewstep.models.training import Recipe, train


def draw(count: int, generator: torch.Generator) -> Batch:
    x0 = torch.randn(count, 3, 32, 32, generator=generator, device=generator.device)
    return Batch(0.5 * x0, (torch.zeros(count, dtype=torch.long),))


class Linear(torch.nn.Module):
    """A network whose output depends on x and the time, so that both losses must pass the same ones."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x: torch.Tensor, time: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return self.factor * x + time[:, None, None, None] / 400


def test_its_loss_is_that_of_its_spec() -> None:
    """On average over 6 x 512 samples, since the two draw different noise. The loss is 1.4, with an error of 0.01."""
    network, count = Linear(), 512
    own = cifar10_unet.loss(draw, count)
    found = sum(own(network, torch.Generator().manual_seed(seed)).item() for seed in range(6)) / 6
    expected = (
        sum(
            loss_of(cifar10_unet.SPEC, network, draw, count, torch.Generator().manual_seed(seed + 9)).item()
            for seed in range(6)
        )
        / 6
    )
    assert abs(found - expected) < 0.05 * expected


def test_its_size_is_eight_to_fifteen_million_weights() -> None:
    assert 8e6 < sum(parameter.numel() for parameter in cifar10_unet.make.network().parameters()) < 15e6


def test_a_short_training_leaves_averaged_weights(tmp_path: Path) -> None:
    """Two steps of two images, on the CPU. Without training the network returns 0."""
    recipe = Recipe(steps=2, batch=2, rate=1e-3, seed=0)
    network = cifar10_unet.make.network()
    train(network, cifar10_unet.loss(draw, 2), recipe, tmp_path, "weights.safetensors")
    assert (tmp_path / "weights.safetensors").stat().st_size > 20e6
    assert network.conv_out.weight.abs().max() > 0
