"""The UNet of Stable Diffusion (Rombach et al. 2022): cross-attention to an encoded text."""

from pathlib import Path

from tests.families.tiny import UNET, diffusers_folder

NAME = "UNet2DConditionModel (diffusers folder)"
PLAN = "dpmpp_2m:2@trailing"


def make(folder: Path) -> str:
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        cross_attention_dim=12,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **UNET,
    )
    return diffusers_folder(folder, network, text_tokens=7)
