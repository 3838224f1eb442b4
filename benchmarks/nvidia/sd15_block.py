"""A ResNet block and a transformer block of the size that the first level of Stable Diffusion 1.5 has, between two
convolutions: 320 channels, 64x64 latents, 77 tokens of 768 numbers. Weights are random, so its samples are no images.
Norms have scales and shifts, as trained ones do: export leaves out those that change nothing."""

from typing import Any

import torch
from torch import Tensor, nn

from fewstep.export import Condition, ScheduleSpec, Spec

CHANNELS, LATENT, HEADS, GROUPS, EMBEDDING = 320, 64, 8, 32, 1280
TEXT = Condition("text", input="text", shape=(77, 768), dtype="float32", null=0.0, typical=(-1.0, 1.0))
SCHEDULE = ScheduleSpec("scaled-linear", beta_start=0.00085, beta_end=0.012, timesteps=1000)
SPEC = Spec("sd15_block", (4, LATENT, LATENT), (TEXT,), "epsilon", SCHEDULE)


class Blocks(nn.Module):
    """The noise of x [B, 4, 64, 64] at time [B] in [0, 999], for features of a text [B, 77, 768]."""

    def __init__(self) -> None:
        from diffusers.models.embeddings import TimestepEmbedding, Timesteps
        from diffusers.models.resnet import ResnetBlock2D
        from diffusers.models.transformers.transformer_2d import Transformer2DModel

        super().__init__()
        self.times = Timesteps(CHANNELS, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.embedding = TimestepEmbedding(CHANNELS, EMBEDDING)
        self.first = nn.Conv2d(4, CHANNELS, 3, padding=1)
        self.block = ResnetBlock2D(in_channels=CHANNELS, temb_channels=EMBEDDING, groups=GROUPS)
        self.transformer = Transformer2DModel(
            HEADS, CHANNELS // HEADS, CHANNELS, norm_num_groups=GROUPS, cross_attention_dim=TEXT.shape[-1]
        )
        self.norm = nn.GroupNorm(GROUPS, CHANNELS)
        self.last = nn.Conv2d(CHANNELS, 4, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        h = self.block(self.first(x), self.embedding(self.times(time).to(x.dtype)))
        h = self.transformer(h, encoder_hidden_states=text, return_dict=False)[0]
        return self.last(nn.functional.silu(self.norm(h)))


def make() -> tuple[Any, Spec]:
    """What `fewstep export benchmarks/nvidia/sd15_block.py:make` takes."""
    torch.manual_seed(0)
    blocks = Blocks()
    for norm in (layer for layer in blocks.modules() if isinstance(layer, nn.GroupNorm | nn.LayerNorm)):
        nn.init.normal_(norm.weight, 1.0, 0.2)
        nn.init.normal_(norm.bias, 0.0, 0.2)
    return blocks, SPEC
