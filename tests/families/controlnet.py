"""A ControlNet (Zhang et al. 2023) beside the UNet of Stable Diffusion: one denoiser that sees a picture."""

from pathlib import Path

from tiny import UNET, diffusers_folder

NAME = "ControlNetModel (diffusers folder)"
PLAN = "scheduler:2"


def make(folder: Path) -> str:
    from diffusers import ControlNetModel, UNet2DConditionModel

    network = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        cross_attention_dim=12,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **UNET,
    )
    control = ControlNetModel.from_unet(network, conditioning_embedding_out_channels=(4, 8))
    return diffusers_folder(
        folder,
        network,
        text_tokens=7,
        pipeline="StableDiffusionControlNetPipeline",
        beside={"controlnet": control},
    )
