"""Stable Diffusion XL (Podell et al. 2023): a pooled text and sizes besides the text, linear projections."""

from pathlib import Path

from tests.families.tiny import UNET, randomize
from tests.tiny_pipelines import autoencoder, clip, write_clip_tokenizer

NAME = "UNet2DConditionModel of SDXL (diffusers folder)"
PLAN = "scheduler:2"


def make(folder: Path) -> str:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTokenizer

    network = UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        cross_attention_dim=24,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=58,
        **UNET,
    )
    files = write_clip_tokenizer(folder / "vocabulary")
    tokenizer = CLIPTokenizer.from_pretrained(files)
    pipeline = StableDiffusionXLPipeline(
        unet=randomize(network),
        vae=autoencoder(),
        text_encoder=clip(files),
        tokenizer=tokenizer,
        text_encoder_2=clip(files, projected=True),
        tokenizer_2=tokenizer,
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1),
    )
    pipeline.save_pretrained(folder / "model")
    return str(folder / "model")
