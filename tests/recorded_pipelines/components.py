"""Shared parts of the folders of recorded pipelines: widths, networks, a scheduler, and writing a folder."""

import json
from pathlib import Path
from typing import Any

import torch

from tests.tiny_pipelines import t5, t5_tokenizer

NETWORKS = Path(__file__).with_name("networks.json")
TEXT = 16  # width of the text encoder, also in `networks.json`
TOKENS = 12
COGVIDEOX_SCHEDULER = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


def make_network(name: str, **more: Any) -> Any:
    """Return a network as it is initialized. `networks.json` has its class in diffusers and its config."""
    import diffusers

    config = json.loads(NETWORKS.read_text())[name]
    return getattr(diffusers, config.pop("class"))(**config, **more)


def write(folder: Path, kind: str, **components: Any) -> Path:
    """Write the folder of a pipeline. The default components are a T5, its tokenizer, and an autoencoder."""
    import diffusers

    torch.manual_seed(0)
    texts = {"text_encoder": t5(TEXT), "tokenizer": t5_tokenizer(TOKENS)}
    pipeline = getattr(diffusers, kind)(**{**texts, **components})
    pipeline.save_pretrained(folder)
    return folder
