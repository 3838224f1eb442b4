"""FLUX.1: packed latents, rotary embeddings, the weight of guidance as a condition, a dynamic shift."""

from pathlib import Path

from tests.families.tiny import diffusers_folder, tokenizers

NAME = "FluxTransformer2DModel (diffusers folder)"
PLAN = "scheduler:2"


def make(folder: Path) -> str:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    network = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    vae = {"vae/config.json": {"sample_size": 16, "block_out_channels": [4, 4]}}
    return diffusers_folder(
        folder,
        network,
        "transformer",
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        pipeline="FluxPipeline",
        configs=tokenizers(tokenizer_2=5) | vae,
    )
