"""A widened U-Net computes what the narrow one does, and copies of a channel differ afterwards."""

import torch
from torch import Tensor, nn
from widening import Channels, Copies, widen_unet

from fewstep.models.cifar10.unet import UNet

OLD: Channels = (16, 24, 32)


class Embedding(nn.Module):
    """The same embedding for time features of any number."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.linspace(-1, 1, 64).expand(len(features), -1)


def draw_network() -> UNet:
    """Return a narrow network whose weights are all random."""
    torch.manual_seed(0)
    network = UNet(OLD, embedding=64)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


def widen(network: UNet, new: Channels) -> UNet:
    wide = UNet(new, embedding=64)
    missing = wide.load_state_dict(widen_unet(network.state_dict(), OLD, new), strict=False)
    assert missing == (["time_mlp.0.weight", "time_mlp.0.bias"], [])
    return wide


@torch.no_grad()
def run(network: UNet) -> Tensor:
    network.time_mlp = Embedding()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return network(x, torch.zeros(2), torch.tensor([0, 10]))


def test_twice_the_channels_compute_the_same() -> None:
    narrow = draw_network()
    expected = run(narrow)
    assert expected.std() > 0.1
    torch.testing.assert_close(run(widen(draw_network(), (32, 48, 64))), expected, atol=1e-4, rtol=1e-4)


def test_some_copies_compute_nearly_the_same() -> None:
    """The mean and the deviation of a group change a little."""
    expected = run(draw_network())
    error = run(widen(draw_network(), (24, 32, 48))) - expected
    assert 0 < error.std() < 0.3 * expected.std()


def test_a_copy_stays_in_the_group_of_its_channel() -> None:
    copies = Copies(48, 64)
    assert copies.source[:9].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 6]
    assert copies.count[:9].tolist() == [2, 2, 1, 1, 1, 1, 2, 2, 2]


def test_copies_share_a_weight_unequally() -> None:
    shared = Copies(8, 16).share(torch.ones(4, 8), torch.Generator().manual_seed(0)).reshape(4, 8, 2)
    torch.testing.assert_close(shared.sum(2), torch.ones(4, 8))
    assert shared.min() >= 0.3 and (shared[..., 0] - shared[..., 1]).abs().max() > 0.2
