"""PixArt-alpha (Chen et al. 2024): cross-attention to a text with a mask, a learned variance."""

from pathlib import Path
from typing import Any

from tests.families.tiny import randomize
from tests.recorded_pipelines.components import write
from tests.tiny_pipelines import autoencoder, t5

NAME = "PixArtTransformer2DModel (diffusers folder)"
PLAN = "scheduler:2"
GUIDANCE = 2.0  # otherwise a calibrated body has the weight of its pipeline


def make(folder: Path) -> dict[str, Any]:
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
    )
    parts = {"transformer": randomize(network), "scheduler": DPMSolverMultistepScheduler()}
    home = write(folder / "model", "PixArtAlphaPipeline", **parts, vae=autoencoder(), text_encoder=t5(12))
    return {"source": str(home), "call": ("max_sequence_length=12", "use_resolution_binning=false")}
