"""Stable Diffusion 3 (Esser et al. 2024): text and picture in one attention, on a straight path."""

from pathlib import Path
from typing import Any

from tests.families.tiny import randomize
from tests.recorded_pipelines.components import write
from tests.tiny_pipelines import autoencoder, clip, t5, t5_tokenizer, write_clip_tokenizer

NAME = "SD3Transformer2DModel (diffusers folder)"
PLAN = "scheduler:2"
GUIDANCE = 2.0  # otherwise a calibrated body has the weight of its pipeline


def make(folder: Path) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
    from transformers import CLIPTokenizer

    network = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=24,
        caption_projection_dim=16,
        pooled_projection_dim=20,
        pos_embed_max_size=6,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    parts = {"transformer": randomize(network), "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0)}
    files = write_clip_tokenizer(folder / "vocabulary", model_max_length=7)
    texts = {f"text_encoder{number}": clip(files, projected=True) for number in ("", "_2")}
    texts |= {f"tokenizer{number}": CLIPTokenizer.from_pretrained(files) for number in ("", "_2")}
    texts |= {"text_encoder_3": t5(24), "tokenizer_3": t5_tokenizer(12)}
    home = write(folder / "model", "StableDiffusion3Pipeline", **parts, **texts, vae=autoencoder(shift_factor=0.06))
    return {"source": str(home), "call": ("max_sequence_length=5",)}
