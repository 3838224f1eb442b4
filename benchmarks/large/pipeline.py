"""A pipeline folder of a size that people have, with random weights: `python benchmarks/large/pipeline.py FOLDER`.

    python benchmarks/large/pipeline.py FOLDER [--channels 320] [--latent 64] [--dtype float32|float16]

By default the U-Net of Stable Diffusion 1.5, 860 M weights; its blocks have 1, 2, 4 and 4 times `--channels`. The
weights are those that torch begins training with: every layer keeps its activations near the size of its inputs, and
norms stand between them. The last layer is as the others, so that the output is not zero. There is no text encoder:
texts are the condition, 77 x 768 numbers.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Literal, get_args

Dtype = Literal["float32", "float16"]
CHANNELS = 320
LATENT = 64
SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "scheduler": ["diffusers", "DDIMScheduler"],
}


def write_pipeline(folder: Path, channels: int = CHANNELS, latent: int = LATENT, dtype: Dtype = "float32") -> int:
    """Write the folder; returns how many weights its network has."""
    import torch
    from diffusers import UNet2DConditionModel
    from diffusers.utils import logging

    logging.set_verbosity_error()  # of its advice on float16
    torch.manual_seed(0)
    widths = tuple(channels * factor for factor in (1, 2, 4, 4))
    network = UNet2DConditionModel(sample_size=latent, block_out_channels=widths, cross_attention_dim=768)
    count = sum(parameter.numel() for parameter in network.parameters())
    network.to(getattr(torch, dtype)).save_pretrained(folder / "unet")
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2))
    (folder / "model_index.json").write_text(json.dumps(INDEX, indent=2))
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--channels", type=int, default=CHANNELS, help="of the first blocks, a multiple of 32")
    parser.add_argument("--latent", type=int, default=LATENT, help="height and width of x")
    parser.add_argument("--dtype", choices=get_args(Dtype), default="float32")
    given = parser.parse_args()
    count = write_pipeline(given.folder, given.channels, given.latent, given.dtype)
    print(f"{given.folder}: {count / 1e6:.0f} M weights, {given.dtype}")


if __name__ == "__main__":
    main()
