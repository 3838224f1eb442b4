"""A tiny bundle that takes a mask and a picture, and has a range group for each step."""

from pathlib import Path

import numpy as np

from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition
from tests.bundles import write_graphs
from tests.onnx_text import graph_of_text

MASK = Condition("mask", "hole", (1, 8, 8), "float32", low=0, high=1, shared=True)
MASKED = Condition("masked", "masked", (1, 8, 8), "float32", typical=(-1.0, 1.0), shared=True)


def write_inpainting(folder: Path) -> Path:
    """x0 from x, mask and masked: 3 -> 16 -> 16 -> 1 channels."""
    rng, widths = np.random.default_rng(0), (3, 16, 16, 1)
    weights = {
        f"w{i}": (rng.standard_normal((out, into, 3, 3)) / (3 * into**0.5)).astype(np.float32)
        for i, (into, out) in enumerate(zip(widths[:-1], widths[1:], strict=True))
    }
    plane, conv = "float[batch, 1, 8, 8]", "Conv<pads=[1, 1, 1, 1]>"
    text = f"""({plane} x, {plane} hole, {plane} masked, float[batch, 1, 1, 1] row) => ({plane} v) {{
        all = Concat<axis=1>(x, hole, masked) h0 = {conv}(all, w0) a0 = Relu(h0)
        h1 = {conv}(a0, w1) m1 = Mul(h1, row) a1 = Relu(m1) v = {conv}(a1, w2)
    }}"""
    prologue = """(float[batch] time) => (float[batch, 1, 1, 1] row)
    { part = Mul(time, thousandth) flat = Add(part, one) row = Reshape(flat, column) }"""
    constants = {"thousandth": 1e-3, "one": 1.0, "column": np.array([-1, 1, 1, 1])}
    graphs = {"body": graph_of_text(text, **weights), "prologue": graph_of_text(prologue, **constants)}
    facts = {"prediction": "sample", "schedule": ScheduleSpec("cosine", timesteps=100)}
    roles = {"conditions": (MASK, MASKED)}
    return write_graphs(folder, graphs, {"float32": {}}, **roles, **facts)
