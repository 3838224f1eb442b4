"""Stable Diffusion (Rombach et al. 2022) as a whole: text encoder, tokenizer and autoencoder besides the U-Net."""

from pathlib import Path

from tests.tiny_pipelines import stable_diffusion

NAME = "Stable Diffusion with text encoder and autoencoder (diffusers folder)"
PLAN = "scheduler:2"
GUIDANCE: float | None = 3.0  # towards the prompt, from the encoded empty one


def make(folder: Path) -> str:
    stable_diffusion(folder / "model")
    return str(folder / "model")
