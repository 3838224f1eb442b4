"""A T2I-Adapter (Mou et al. 2023) with the UNet of Stable Diffusion: it runs once a call, in the prologue."""

from pathlib import Path

from tests.families.tiny import diffusers_folder, stable_diffusion_unet

NAME = "T2IAdapter (diffusers folder)"
PLAN = "scheduler:2"


def make(folder: Path) -> str:
    from diffusers import T2IAdapter

    network = stable_diffusion_unet()
    adapter = T2IAdapter(in_channels=3, channels=[16, 32], num_res_blocks=1, downscale_factor=2)
    return diffusers_folder(
        folder,
        network,
        text_tokens=7,
        pipeline="StableDiffusionAdapterPipeline",
        more={"adapter": adapter},
        configs={"vae/config.json": {"block_out_channels": [4, 4]}},
    )
