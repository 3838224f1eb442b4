"""A T2I-Adapter (Mou et al. 2023) beside the UNet of Stable Diffusion: it runs once a call, in the prologue."""

from pathlib import Path

from tiny import UNET, diffusers_folder

NAME = "T2IAdapter (diffusers folder)"
PLAN = "scheduler:2"


def make(folder: Path) -> str:
    from diffusers import T2IAdapter, UNet2DConditionModel

    network = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        cross_attention_dim=12,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **UNET,
    )
    adapter = T2IAdapter(in_channels=3, channels=[16, 32], num_res_blocks=1, downscale_factor=2)
    return diffusers_folder(
        folder,
        network,
        text_tokens=7,
        pipeline="StableDiffusionAdapterPipeline",
        beside={"adapter": adapter},
        configs={"vae/config.json": {"block_out_channels": [4, 4]}},
    )
