"""Small autoencoders of diffusers, with GroupNorm and attention, traced as the decoders of bundles are."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL

from fewstep.export.tracing.capture import capture
from fewstep.graph.files.io import save
from fewstep.graph.passes.constants import drop_unused, fold_constants
from fewstep.graph.passes.shapes import fold_shapes
from fewstep.pipelines.companions.text_modules import Decoder, LatentScale

LATENTS = (1, 4, 12, 8)
BLOCKS = (32, 64, 64)  # the last level has a convolution beside its first block


def write_decoder(path: Path) -> Path:
    """Write the decoder of latents LATENTS to images that are four times as high and wide."""
    torch.manual_seed(0)
    count = len(BLOCKS)
    down, up = ("DownEncoderBlock2D",) * count, ("UpDecoderBlock2D",) * count
    autoencoder = AutoencoderKL(3, 3, down, up, BLOCKS, layers_per_block=1, sample_size=32)
    module = Decoder(autoencoder, LatentScale(dict(autoencoder.config))).eval().requires_grad_(False)
    graph, _ = capture(module, (torch.randn(LATENTS),), (({},),), ["latent"], ["image"])
    save(drop_unused(fold_shapes(fold_constants(graph))), path)
    return path
