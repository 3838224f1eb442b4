"""DiT (Peebles & Xie 2023): a transformer on patches, adaptive layer norms, labels with a null one."""

from pathlib import Path

from tests.families.tiny import diffusers_folder

NAME = "DiTTransformer2DModel (diffusers folder)"
PLAN = "dpmpp_2m:2@trailing"
GUIDANCE = 2.0


def make(folder: Path) -> str:
    from diffusers import DiTTransformer2DModel

    network = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=5,
    )
    return diffusers_folder(folder, network, "transformer")
