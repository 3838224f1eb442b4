"""Networks of three codebases on PyPI besides diffusers, small and with random weights. Each function is a source,
`FILE.py:FUNCTION`. Networks are exported unchanged.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor, nn

from fewstep.export import ScheduleSpec, Spec

SIZE, LENGTH = 16, 256


@contextmanager
def stand_in_for(package: str) -> Iterator[None]:
    """A stand-in for a data package whose transforms these codebases import. No network needs it, and its releases are
    older than torch's.
    """
    names = () if package in sys.modules else (package, f"{package}.transforms", f"{package}.utils")
    sys.modules.update({name: mock.MagicMock() for name in names})
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


def ddpm_unet() -> tuple[nn.Module, Spec]:
    """The U-Net of denoising-diffusion-pytorch: linear and full attention by einsum, RMS norms, weight-standardized or
    plain convolutions, Rearrange layers."""
    with stand_in_for("torchvision"):
        from denoising_diffusion_pytorch import Unet
    torch.manual_seed(0)
    network = Unet(32, dim_mults=(1, 2), channels=3, attn_dim_head=16, attn_heads=2)
    return network, Spec("ddpm_unet", (3, SIZE, SIZE), (), "v", ScheduleSpec("sigmoid"))


class SelfConditioned(nn.Module):
    """The U-Net of denoising-diffusion-pytorch that also takes the x0 of the step before."""

    def __init__(self) -> None:
        super().__init__()
        with stand_in_for("torchvision"):
            from denoising_diffusion_pytorch import Unet
        torch.manual_seed(0)
        self.network = Unet(32, dim_mults=(1, 2), channels=3, attn_dim_head=16, attn_heads=2, self_condition=True)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x, x0 = x.chunk(2, dim=1)
        v: Tensor = self.network(x, time, x0)
        return v


def self_conditioned_unet() -> tuple[nn.Module, Spec]:
    spec = Spec("self_conditioned", (3, SIZE, SIZE), (), "v", ScheduleSpec("cosine"), self_condition=True)
    return SelfConditioned(), spec


class Sigma(nn.Module):
    """smalldiffusion's networks predict the noise of x0 + sigma eps, at sigma."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        predicted: Tensor = self.network(x, sigma)
        return predicted


def sigma_spec(name: str) -> Spec:
    return Spec(name, (3, SIZE, SIZE), (), "epsilon", ScheduleSpec("exploding", sigma_min=0.01, sigma_max=35.0))


def small_unet() -> tuple[nn.Module, Spec]:
    """smalldiffusion's U-Net, with attention at its lower resolution."""
    with stand_in_for("torchvision"):
        from smalldiffusion import Unet
    torch.manual_seed(0)
    network = Unet(SIZE, 3, 3, ch=32, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(SIZE // 2,))
    return Sigma(network), sigma_spec("small_unet")


def small_dit() -> tuple[nn.Module, Spec]:
    """smalldiffusion's transformer of patches."""
    with stand_in_for("torchvision"):
        from smalldiffusion import DiT
    torch.manual_seed(0)
    network = DiT(SIZE, 3, patch_size=2, depth=2, head_dim=16, num_heads=4)
    for parameter in network.parameters():  # it starts with gates of zero, through which nothing passes
        if parameter.requires_grad and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return Sigma(network), sigma_spec("small_dit")


def audio_unet() -> tuple[nn.Module, Spec]:
    """audio-diffusion-pytorch's U-Net over waves, of a-unet: v on a quarter of a circle, at its angle's share."""
    with stand_in_for("torchaudio"):
        from audio_diffusion_pytorch import UNetV0
    torch.manual_seed(0)
    network = UNetV0(
        dim=1,
        in_channels=2,
        channels=[16, 32, 32],
        factors=[1, 2, 2],
        items=[1, 1, 1],
        attentions=[0, 0, 1],
        attention_heads=2,
        attention_features=16,
        modulation_features=64,
    )
    return network, Spec("audio_unet", (2, LENGTH), (), "v", ScheduleSpec("trigonometric"))
