import numpy as np

from fewstep.graph.graph import Graph
from fewstep.graph.prepare import prepare, simplify
from fewstep.graph.session import run
from tests.graph.small import assert_close, feeds, node, small, value


def block() -> Graph:
    """GroupNorm with affine, adaptive scale and shift, SiLU, a conv over a skip: as exporters write them."""
    rng = np.random.default_rng(0)
    array = {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in (("gain", (4, 1, 1)), ("bias", (4, 1, 1)), ("project", (1, 8)), ("w", (4, 8, 1, 1)))
    }
    return small(
        [value("x", "batch", 4, 6, 6), value("time", "batch", 1)],
        [value("output", "batch", 4, 6, 6)],
        [
            node("MatMul", "time project", "embedding"),
            node("Unsqueeze", "embedding last", "columns"),
            node("Split", "columns", "scale shift", axis=1, num_outputs=2),
            node("Reshape", "x groups", "grouped"),
            node("InstanceNormalization", "grouped ones zeros", "normal"),
            node("Shape", "x", "shape"),
            node("Reshape", "normal shape", "n"),
            node("Mul", "n gain", "n_gain"),
            node("Add", "n_gain bias", "n_affine"),
            node("Add", "scale one", "scale_one"),
            node("Mul", "n_affine scale_one", "modulated"),
            node("Add", "modulated shift", "h"),
            node("Sigmoid", "h", "gate"),
            node("Mul", "h gate", "silu"),
            node("Concat", "silu x", "joined", axis=1),
            node("Conv", "joined w", "output"),
        ],
        groups=np.int64([0, 2, -1]),
        ones=[1.0, 1.0],
        zeros=[0.0, 0.0],
        one=1.0,
        last=np.int64([2, 3]),
        **array,
    )


def test_the_body_holds_what_depends_on_x_and_nothing_else() -> None:
    prepared = prepare(block())
    assert prepared.prologue is not None
    norm = ("Reshape", "InstanceNormalization", "Reshape", "Mul", "Add")
    assert prepared.body.ops() == (*norm, "Sigmoid", "Mul", "Conv", "Conv", "Add")
    assert len(prepared.prologue.outputs) == 2


def test_prologue_and_body_compute_what_the_graph_did() -> None:
    whole = block()
    prepared = prepare(whole)
    assert prepared.prologue is not None
    for batch in (1, 2, 5):
        given = feeds(whole, batch)
        rows = run(prepared.prologue, given)
        assert_close(run(whole, given), run(prepared.body, {**given, **rows}), rtol=1e-6)


def test_a_prepared_graph_has_nothing_left_to_prepare() -> None:
    body = prepare(block()).body
    assert simplify(body).nodes == body.nodes
