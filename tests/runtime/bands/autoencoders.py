"""Small autoencoders of diffusers, with GroupNorm and attention, traced as the decoders of bundles are."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from fewstep.export.tracing.capture import capture
from fewstep.graph.files.io import save
from fewstep.graph.passes.constants import drop_unused, fold_constants
from fewstep.graph.passes.shapes import fold_shapes

LATENTS = (1, 4, 12, 8)
BLOCKS = (32, 64, 64)  # the last level has a convolution beside its first block


class Decoder(nn.Module):
    """Converts x to an image, as Stable Diffusion does."""

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, *latent: Tensor) -> tuple[Tensor, ...]:
        return (self.autoencoder.decode(latent[0] / self.autoencoder.config.scaling_factor, return_dict=False)[0],)


def write_decoder(path: Path) -> Path:
    """Write the decoder of latents LATENTS to images that are four times as high and wide."""
    torch.manual_seed(0)
    count = len(BLOCKS)
    down, up = ("DownEncoderBlock2D",) * count, ("UpDecoderBlock2D",) * count
    autoencoder = AutoencoderKL(3, 3, down, up, BLOCKS, layers_per_block=1, sample_size=32)
    module = Decoder(autoencoder).eval().requires_grad_(False)
    graph, _ = capture(module, (torch.randn(LATENTS),), (({},),), ["latent"], ["image"])
    save(drop_unused(fold_shapes(fold_constants(graph))), path)
    return path
