"""OpenVINO GenAI on the CPU: `openvino_genai_folder.py FOLDER`, a folder of optimum-intel's export."""

import sys
from collections.abc import Callable
from typing import Any

import openvino_genai

from benchmarks.whole.contenders.laps import PROMPT, SIZE, STEPS, print_laps


def load() -> Callable[[], object]:
    pipeline = openvino_genai.Text2ImagePipeline(sys.argv[1], "CPU")
    options: dict[str, Any] = {"width": SIZE, "height": SIZE, "num_inference_steps": STEPS, "guidance_scale": 1.0}
    return lambda: pipeline.generate(PROMPT, **options).data


if __name__ == "__main__":
    print_laps(load)
