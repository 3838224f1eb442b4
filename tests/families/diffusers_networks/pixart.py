"""PixArt-alpha (Chen et al. 2024): cross-attention to a text with a mask, a learned variance."""

from pathlib import Path

from tests.families.tiny import diffusers_folder, tokenizers

NAME = "PixArtTransformer2DModel (diffusers folder)"
PLAN = "scheduler:2"


def make(folder: Path) -> str:
    from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel

    network = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        cross_attention_dim=24,
        caption_channels=12,
        sample_size=8,
        use_additional_conditions=True,
    )
    return diffusers_folder(
        folder,
        network,
        "transformer",
        DPMSolverMultistepScheduler(),
        pipeline="PixArtAlphaPipeline",
        configs=tokenizers(tokenizer=5),
    )
