"""A T2I-Adapter (Mou et al. 2023) with the UNet of Stable Diffusion: it runs once a call, in the prologue."""

from pathlib import Path

from tests.families.tiny import randomize, stable_diffusion_folder, stable_diffusion_unet

NAME = "T2IAdapter (diffusers folder)"
PLAN = "scheduler:2"
GUIDANCE = 2.0  # otherwise a calibrated body has the weight of its pipeline


def make(folder: Path) -> str:
    from diffusers import T2IAdapter

    adapter = T2IAdapter(in_channels=3, channels=[16, 32], num_res_blocks=1, downscale_factor=2)
    return stable_diffusion_folder(
        folder, stable_diffusion_unet(), pipeline="StableDiffusionAdapterPipeline", adapter=randomize(adapter)
    )
