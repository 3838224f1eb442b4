"""The UNet of Stable Diffusion (Rombach et al. 2022): cross-attention to an encoded text."""

from pathlib import Path

from tests.families.tiny import stable_diffusion_folder, stable_diffusion_unet

NAME = "UNet2DConditionModel (diffusers folder)"
PLAN = "dpmpp_2m:2@trailing"


def make(folder: Path) -> str:
    return stable_diffusion_folder(folder, stable_diffusion_unet())
