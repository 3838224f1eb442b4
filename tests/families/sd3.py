"""Stable Diffusion 3 (Esser et al. 2024): text and picture in one attention, on a straight path."""

from pathlib import Path

from tests.families.tiny import diffusers_folder, tokenizers

NAME = "SD3Transformer2DModel (diffusers folder)"
PLAN = "scheduler:2"


def make(folder: Path) -> str:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    network = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=10,
        pos_embed_max_size=6,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return diffusers_folder(
        folder,
        network,
        "transformer",
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        pipeline="StableDiffusion3Pipeline",
        configs=tokenizers(tokenizer=3, tokenizer_3=4),
    )
