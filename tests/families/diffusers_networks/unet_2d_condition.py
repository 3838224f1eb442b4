"""The UNet of Stable Diffusion (Rombach et al. 2022): cross-attention to an encoded text."""

from pathlib import Path

from tests.families.tiny import stable_diffusion_folder, stable_diffusion_unet

NAME = "UNet2DConditionModel (diffusers folder)"
PLAN = "dpmpp_2m:2@trailing"
GUIDANCE = 2.0  # otherwise a calibrated body has the weight of its pipeline


def make(folder: Path) -> str:
    return stable_diffusion_folder(folder, stable_diffusion_unet())
