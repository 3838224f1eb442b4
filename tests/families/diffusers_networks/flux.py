"""FLUX.1: packed latents, rotary embeddings, the weight of guidance as a condition, a dynamic shift."""

from pathlib import Path
from typing import Any

from tests.families.tiny import randomize
from tests.tiny_pipelines import autoencoder, clip, flux_transformer, t5, t5_tokenizer, write_clip_tokenizer

NAME = "FluxTransformer2DModel (diffusers folder)"
PLAN = "scheduler:2"


def make(folder: Path) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
    from transformers import CLIPTokenizer

    files = write_clip_tokenizer(folder / "vocabulary")
    pipeline = FluxPipeline(
        transformer=randomize(flux_transformer(16, 16, 12, guidance_embeds=True)),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=autoencoder(shift_factor=0.06),
        text_encoder=clip(files),
        tokenizer=CLIPTokenizer.from_pretrained(files),
        text_encoder_2=t5(16),
        tokenizer_2=t5_tokenizer(24),
    )
    pipeline.save_pretrained(folder / "model")
    return {"source": str(folder / "model"), "call": ("max_sequence_length=24", "height=16", "width=16")}
