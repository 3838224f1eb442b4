import numpy as np

from fewstep.graph.prepare import prepare
from tests.onnx_text import graph_of_text

SHAPES = {"gain": (4, 1, 1), "bias": (4, 1, 1), "project": (1, 8), "w": (4, 8, 1, 1)}


def test_the_body_holds_what_depends_on_x_and_nothing_else() -> None:
    """GroupNorm with affine, adaptive scale and shift, SiLU, a conv over a skip: as exporters write them.

    `test_random_networks.py` tests that prepared graphs compute the same.
    """
    rng = np.random.default_rng(0)
    block = graph_of_text(
        """(float[batch, 4, 6, 6] x, float[batch, 1] time) => (float[batch, 4, 6, 6] output) {
            embedding = MatMul(time, project)
            columns = Unsqueeze(embedding, last)
            scale, shift = Split<axis=1, num_outputs=2>(columns)
            grouped = Reshape(x, groups)
            normal = InstanceNormalization(grouped, ones, zeros)
            shape = Shape(x)
            n = Reshape(normal, shape)
            n_gain = Mul(n, gain)
            n_affine = Add(n_gain, bias)
            scale_one = Add(scale, one)
            modulated = Mul(n_affine, scale_one)
            h = Add(modulated, shift)
            gate = Sigmoid(h)
            silu = Mul(h, gate)
            joined = Concat<axis=1>(silu, x)
            output = Conv(joined, w)
        }""",
        groups=np.int64([0, 2, -1]),
        ones=[1.0, 1.0],
        zeros=[0.0, 0.0],
        one=1.0,
        last=np.int64([2, 3]),
        **{name: rng.standard_normal(shape) for name, shape in SHAPES.items()},
    )
    prepared = prepare(block)
    norm = ("Reshape", "InstanceNormalization", "Reshape", "Mul", "Add")
    assert prepared.body.ops() == (*norm, "Sigmoid", "Mul", "Conv", "Conv", "Add")
    assert prepared.prologue is not None and len(prepared.prologue.outputs) == 2
