"""DiT (Peebles & Xie 2023): a transformer on patches, adaptive layer norms, labels with a null one."""

from pathlib import Path
from typing import Any

from tests.families.tiny import randomize, v_scheduler
from tests.tiny_pipelines import autoencoder

NAME = "DiTTransformer2DModel (diffusers folder)"
PLAN = "dpmpp_2m:2@trailing"
GUIDANCE = 2.0


def make(folder: Path) -> dict[str, Any]:
    from diffusers import DiTPipeline, DiTTransformer2DModel

    network = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=1000,  # the pipeline takes label 1000 for none
    )
    parts = {"transformer": randomize(network), "vae": autoencoder(), "scheduler": v_scheduler()}
    DiTPipeline(**parts).save_pretrained(folder / "model")
    return {"source": str(folder / "model")}
