"""A body of six convolutions, of which four can be lowered, and its calibration."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from fewstep.calibration.calibrate import Calibration, calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.graph.graph import BATCH, Graph, Node, Value
from tests.calibration.test_calibrate import SHAPE

WIDTH, LAYERS = 16, 4


def deep() -> Graph:
    """1 -> 16 -> ... -> 1 channels; the inner convolutions can be lowered."""
    rng = np.random.default_rng(0)
    widths = (1, *(WIDTH,) * (LAYERS + 1), 1)
    weights = {
        f"w{i}": (rng.standard_normal((out, into, 3, 3)) / (3 * into**0.5)).astype(np.float32)
        for i, (into, out) in enumerate(zip(widths[:-1], widths[1:], strict=True))
    }
    pads = {"pads": [1, 1, 1, 1]}
    nodes, last = [], "x"
    for i in range(len(weights)):
        made = "v" if i == len(weights) - 1 else f"h{i}"
        nodes.append(Node("Conv", (last, f"w{i}"), (made,), pads))
        if made != "v":
            nodes += [Node("Mul", (made, "row"), (f"m{i}",)), Node("Tanh", (f"m{i}",), (f"a{i}",))]
            last = f"a{i}"
    f32 = np.dtype(np.float32)
    inputs = (Value("x", f32, (BATCH, *SHAPE)), Value("row", f32, (BATCH, 1, 1, 1)))
    return Graph("body", inputs, (Value("v", f32, (BATCH, *SHAPE)),), tuple(nodes), weights)


def run(bundle: Path, **changes: object) -> Calibration:
    first = CalibrateOptions(bundle, plan="ddim:3", target=("cpu-x86",), trajectories=4)
    return calibrate(replace(first, **changes))  # type: ignore[arg-type]
