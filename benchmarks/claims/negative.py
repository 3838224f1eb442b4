"""What a negative text costs inside of attention (NASA), beside two branches of guidance: the ratio of their times.

    python -m benchmarks.claims.negative [--rounds 7] [--work FOLDER]

The network is a UNet of diffusers for 77 tokens with random weights: time does not follow from what weights learnt.
Contenders take turns, one run of four steps each, and the median of the rounds' ratios is printed. One thread.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.options import add_work, parser_of
from fewstep.export.export import ExportOptions, export
from fewstep.runtime import load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

TOKENS, CHANNELS, SIZE, PLAN = 77, 128, 32, "ddim:4"


def pipeline(home: Path) -> str:
    """The folder of a pipeline whose UNet has 10 million parameters."""
    import torch
    from diffusers import DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    network = UNet2DConditionModel(
        sample_size=SIZE, block_out_channels=(64, 128, 128), layers_per_block=1, cross_attention_dim=CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=8,
    )  # fmt: skip
    network.save_pretrained(home / "unet")
    DDIMScheduler(prediction_type="v_prediction", clip_sample=False).save_pretrained(home / "scheduler")
    (home / "text_encoder").mkdir()
    (home / "text_encoder/config.json").write_text(json.dumps({"max_position_embeddings": TOKENS}))
    (home / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]}))
    return str(home)


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    add_work(parser, "negative")
    arguments = parser.parse_args()
    paths = {name: arguments.work / name for name in ("plain", "negative")}
    for name, path in paths.items():
        if not (path / "manifest.json").exists():
            layers = ("all",) if name == "negative" else ()
            source = pipeline(arguments.work / f"{name}-pipeline")
            export(ExportOptions(source, path, negative=layers, null=("text=0",), verify="quick"))
    text, away = (np.random.default_rng(seed).standard_normal((1, TOKENS, CHANNELS), np.float32) for seed in (0, 1))
    both = {"text": text, "negative_text": away, "negative_scale": [0.2]}
    engine = OnnxRuntime(1)
    with load(paths["plain"], backend=engine) as plain, load(paths["negative"], backend=engine) as negative:

        def seconds(sampler: Any, condition: Mapping[str, Any], guidance: float | None) -> float:
            sampler.forget()
            started = time.perf_counter()
            sampler.sample(PLAN, [0], condition, guidance)
            return time.perf_counter() - started

        ways = {"one branch": (plain, {"text": text}, None), "NASA": (negative, both, None),
                "guidance": (plain, {"text": text}, 2.0)}  # fmt: skip
        rounds = [{name: seconds(*way) for name, way in ways.items()} for _ in range(arguments.rounds + 1)][1:]
    for name in ("NASA", "guidance"):
        print(f"{name} takes {median(each[name] / each['one branch'] for each in rounds):.2f} times one branch")
    print(f"NASA takes {median(each['NASA'] / each['guidance'] for each in rounds):.2f} times guidance")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
