"""A pipeline folder of a size that people have, with random weights (networks.py has all).

The weights are those that torch begins training with: every layer keeps its activations near the size of its inputs,
and norms stand between them. The last layer is as the others, so that the output is not zero. There is no text encoder:
texts are arrays of the pipeline's call.
"""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.large.networks import Network

Dtype = Literal["float32", "float16"]
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


def write_arrays(folder: Path, network: Network) -> None:
    """Write random arrays for the arguments of a call that stand for texts."""
    rng = np.random.default_rng(0)
    for argument, condition in network.arrays.items():
        np.save(folder / f"{argument}.npy", rng.standard_normal((1, *network.conditions[condition]), np.float32))


def calls_of(folder: Path, network: Network) -> tuple[str, ...]:
    """Return the values of --call that give the arrays of a folder in place of texts."""
    given = tuple(f"{argument}=@{folder / argument}.npy" for argument in network.arrays)
    return (*given, "prompt=null", "negative_prompt=null") if given else ()


def write_pipeline(
    folder: Path, network: Network, channels: int | None = None, latent: int | None = None, dtype: Dtype = "float32"
) -> int:
    """Write the folder, and return the number of weights of its network."""
    import torch
    from diffusers.utils import logging

    logging.set_verbosity_error()  # of its advice on float16
    torch.manual_seed(0)
    made = network.make(channels or network.width, latent or network.latent)
    count = sum(parameter.numel() for parameter in made.parameters())
    part, kind = network.component
    made.to(getattr(torch, dtype)).save_pretrained(folder / part)
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(SCHEDULER, indent=2))
    index = {
        "_class_name": network.pipeline,
        part: ["diffusers", kind],
        "scheduler": ["diffusers", SCHEDULER["_class_name"]],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return int(count)
