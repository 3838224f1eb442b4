"""Networks of sizes that people have, by name: how diffusers makes them, and what conditions they take.

sd15: the U-Net of Stable Diffusion 1.5, 860 M weights. sdxl: that of Stable Diffusion XL, 2.6 B. dit: DiT-XL/2 (Peebles
& Xie 2023), 675 M. dit-half: 14 of its 28 layers, at 64 x 64, so with 1 024 tokens; 376 M. ddpm: the U-Net of DDPM on
CIFAR-10 (Ho, Jain, Abbeel 2020, arXiv 2006.11239, appendix B), 35.7 M.
`width` scales each: the channels of a U-Net's first block, or of a transformer's head.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Network:
    """`make(width, latent)` returns the module. `conditions` are the shapes of conditions that must be given, by
    name; `labels` are values of others, which a sample also needs. `arrays` are arguments of the pipeline's call that
    stand for its texts, each with the name of its condition.
    """

    pipeline: str
    component: tuple[str, str]
    width: int
    latent: int
    make: Callable[[int, int], Any]
    conditions: Mapping[str, tuple[int, ...]]
    labels: Mapping[str, int] = field(default_factory=dict)
    arrays: Mapping[str, str] = field(default_factory=dict)


def _sd15(width: int, latent: int) -> Any:
    from diffusers import UNet2DConditionModel

    widths = tuple(width * factor for factor in (1, 2, 4, 4))
    return UNet2DConditionModel(sample_size=latent, block_out_channels=widths, cross_attention_dim=768)


def _sdxl(width: int, latent: int) -> Any:
    from diffusers import UNet2DConditionModel

    heads = max(1, width // 64)
    return UNet2DConditionModel(
        sample_size=latent,
        block_out_channels=(width, 2 * width, 4 * width),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(heads, 2 * heads, 4 * heads),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def _dit(width: int, latent: int, layers: int = 28) -> Any:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=16, attention_head_dim=width, num_layers=layers, out_channels=8, sample_size=latent
    )


def _ddpm(width: int, latent: int) -> Any:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=latent,
        block_out_channels=(width, 2 * width, 2 * width, 2 * width),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        attention_head_dim=None,
    )


TEXT, POOLED = "encoder_hidden_states", "text_embeds"
TEXTS = {"prompt_embeds": TEXT, "negative_prompt_embeds": TEXT}
POOLED_TEXTS = {"pooled_prompt_embeds": POOLED, "negative_pooled_prompt_embeds": POOLED}
UNET, TRANSFORMER = ("unet", "UNet2DConditionModel"), ("transformer", "DiTTransformer2DModel")
NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "sd15": Network("StableDiffusionPipeline", UNET, 320, 64, _sd15, {TEXT: (77, 768)}, arrays=TEXTS),
        "sdxl": Network(
            *("StableDiffusionXLPipeline", UNET, 320, 128, _sdxl, {TEXT: (77, 2048), POOLED: (1280,)}),
            arrays=TEXTS | POOLED_TEXTS,
        ),
        "dit": Network("DiTPipeline", TRANSFORMER, 72, 32, _dit, {}, {"class_labels": 0}),
        "dit-half": Network("DiTPipeline", TRANSFORMER, 72, 64, partial(_dit, layers=14), {}, {"class_labels": 0}),
        "ddpm": Network("DDPMPipeline", ("unet", "UNet2DModel"), 128, 32, _ddpm, {}),
    }
)
