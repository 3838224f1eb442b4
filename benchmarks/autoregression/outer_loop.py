"""The outer loop of a masked autoregressive model: a backbone in onnxruntime, and a bundle of its diffusion head.

No torch is needed to sample. DiSA (Zhao et al. 2025, arXiv 2505.20297) is another list of plans.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from fewstep.plans.noise import uniforms
from fewstep.runtime import Sampler

POSITIONS, PIXELS, NO_CLASS = 49, 16, 10
ORDER = 2**31  # the draw that orders the patches of a picture


def open_backbone(file: Path, threads: int = 1) -> ort.InferenceSession:
    """The backbone, which `make.py` wrote."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def counts(iterations: int) -> list[int]:
    """How many patches each iteration draws: what is left of 49 follows a cosine, as in MaskGIT and MAR."""
    left = [POSITIONS]
    for i in range(iterations - 1):
        cosine = math.floor(POSITIONS * math.cos(math.pi / 2 * (i + 1) / iterations))
        left.append(max(1, min(left[-1] - 1, cosine)))
    return [before - after for before, after in zip(left, [*left[1:], 0], strict=True)]


def annealed(iterations: int, upper: int = 50, lower: int = 5) -> list[int]:
    """The steps of each iteration: DiSA's linear schedule, as its code has it."""
    last = iterations - 1
    return [lower + int((last - i) / last * (upper - lower)) for i in range(iterations)]


def generate(
    sampler: Sampler, backbone: ort.InferenceSession, plans: Sequence[Any], labels: Sequence[int], seeds: Sequence[int]
) -> NDArray[np.float32]:
    """Patches [B, 49, 16] of the classes `labels`, drawn in as many iterations as there are plans. A picture depends
    on its seed and label alone. Guided plans have z of no class in the other branch."""
    every, label = np.arange(len(seeds))[:, None], np.array(labels, np.int64)
    order = np.argsort(uniforms(seeds, ORDER, POSITIONS), axis=1)
    x = np.zeros((len(seeds), POSITIONS, PIXELS), np.float32)
    is_open = np.ones((len(seeds), POSITIONS, 1), np.float32)
    begin = 0
    for plan, count in zip(plans, counts(len(plans)), strict=True):
        now = order[:, begin : begin + count]

        def conditions(of: NDArray[np.int64], now: NDArray[np.int64] = now) -> NDArray[np.float32]:
            (z,) = backbone.run(None, {"patches": x, "is_open": is_open, "label": of})
            return z[every, now].reshape(now.size, -1)

        z, branches = conditions(label), None
        if plan.guidance is not None:
            branches = {"uncond": {"z": conditions(np.full_like(label, NO_CLASS))}}
        rows = [seed * POSITIONS + place for seed, places in zip(seeds, now, strict=True) for place in places.tolist()]
        drawn = sampler.sample(plan, rows, {"z": z}, branches=branches)
        x[every, now] = drawn.reshape(*now.shape, PIXELS)
        is_open[every, now] = 0
        begin += count
    return x
