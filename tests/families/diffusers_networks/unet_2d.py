"""DDPM's UNet (Ho et al. 2020), with attention; without labels, as most are."""

from pathlib import Path

from tests.families.tiny import UNET, unconditional_folder

NAME = "UNet2DModel (diffusers folder)"
PLAN = "dpmpp_2m:2@trailing"


def make(folder: Path) -> str:
    from diffusers import UNet2DModel

    network = UNet2DModel(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **UNET,
    )
    return unconditional_folder(folder, network)
