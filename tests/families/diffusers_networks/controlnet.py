"""A ControlNet (Zhang et al. 2023) with the UNet of Stable Diffusion: one denoiser that sees a picture."""

from pathlib import Path

from tests.families.tiny import diffusers_folder, stable_diffusion_unet

NAME = "ControlNetModel (diffusers folder)"
PLAN = "scheduler:2"


def make(folder: Path) -> str:
    from diffusers import ControlNetModel

    network = stable_diffusion_unet()
    control = ControlNetModel.from_unet(network, conditioning_embedding_out_channels=(4, 8))
    return diffusers_folder(
        folder, network, text_tokens=7, pipeline="StableDiffusionControlNetPipeline", more={"controlnet": control}
    )
