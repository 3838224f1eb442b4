"""A body of six convolutions, of which four can be lowered, and its calibration."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from fewstep.calibration.calibrate import Calibration, calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.graph.graph import Graph
from tests.exact_int8 import EXACT_TARGET
from tests.onnx_text import graph_of_text

WIDTH, LAYERS = 16, 4


def deep() -> Graph:
    """1 -> 16 -> ... -> 1 channels; the inner convolutions can be lowered."""
    rng = np.random.default_rng(0)
    widths = (1, *(WIDTH,) * (LAYERS + 1), 1)
    weights = {
        f"w{i}": (rng.standard_normal((out, into, 3, 3)) / (3 * into**0.5)).astype(np.float32)
        for i, (into, out) in enumerate(zip(widths[:-1], widths[1:], strict=True))
    }
    conv, last = "Conv<pads=[1, 1, 1, 1]>", len(weights) - 1
    parts = [
        f"h{i} = {conv}({f'a{i - 1}' if i else 'x'}, w{i}) m{i} = Mul(h{i}, row) a{i} = Tanh(m{i})" for i in range(last)
    ]
    plane, text = "float[batch, 1, 8, 8]", f"{' '.join(parts)} v = {conv}(a{last - 1}, w{last})"
    return graph_of_text(f"({plane} x, float[batch, 1, 1, 1] row) => ({plane} v) {{ {text} }}", **weights)


def run(bundle: Path, **changes: object) -> Calibration:
    first = CalibrateOptions(bundle, plan="ddim:3", target=(EXACT_TARGET,), trajectories=4)
    return calibrate(replace(first, **changes))  # type: ignore[arg-type]
