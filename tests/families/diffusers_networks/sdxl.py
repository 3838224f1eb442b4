"""Stable Diffusion XL (Podell et al. 2023): a pooled text and sizes besides the text, linear projections."""

from pathlib import Path

from tests.families.tiny import UNET, diffusers_folder

NAME = "UNet2DConditionModel of SDXL (diffusers folder)"
PLAN = "scheduler:2"


def make(folder: Path) -> str:
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

    network = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        cross_attention_dim=12,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=58,
        **UNET,
    )
    scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1)
    return diffusers_folder(folder, network, "unet", scheduler, 7, pipeline="StableDiffusionXLPipeline")
