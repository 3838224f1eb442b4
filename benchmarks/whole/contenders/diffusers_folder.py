"""diffusers in bfloat16 on the CPU: `diffusers_folder.py FOLDER`."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DiffusionPipeline

from benchmarks.whole.contenders.laps import PROMPT, SIZE, STEPS, print_laps


def load() -> Callable[[], object]:
    pipeline: Any = DiffusionPipeline.from_pretrained(sys.argv[1], torch_dtype=torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    options = {"width": SIZE, "height": SIZE, "num_inference_steps": STEPS, "guidance_scale": 1.0}
    return lambda: pipeline(prompt=PROMPT, **options).images


if __name__ == "__main__":
    print_laps(load)
