"""stable-diffusion.cpp on the CPU: `sd_cpp_file.py FILE.gguf`, through stable-diffusion-cpp-python."""

import os
import sys
from collections.abc import Callable

from stable_diffusion_cpp import StableDiffusion

from benchmarks.whole.contenders.laps import PROMPT, SIZE, STEPS, print_laps


def load() -> Callable[[], object]:
    model = StableDiffusion(model_path=sys.argv[1], n_threads=len(os.sched_getaffinity(0)), verbose=False)
    options = {"width": SIZE, "height": SIZE, "sample_steps": STEPS, "cfg_scale": 1.0, "sample_method": "euler"}
    return lambda: model.generate_image(PROMPT, **options)


if __name__ == "__main__":
    print_laps(load)
