"""Cuts of graphs: fed with fresh tensors, the shallow graph gives the full one's output."""

import numpy as np
import pytest

from benchmarks.caching.cached import cached, corrected
from benchmarks.caching.cut import Pair, cut, encoder_cut, residual_cut, single_cuts
from fewstep.graph.graph import Graph, Node, Value
from fewstep.graph.session import run
from fewstep.plans.compile import compile_plan
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.execute import execute, finish
from fewstep.runtime.slots import Carrying, first_slots

FLOAT, WIDTH = np.dtype(np.float32), 16


def graph(*nodes: Node) -> Graph:
    """x [B, 16] -> output; a weight for each name that begins with w."""
    rng = np.random.default_rng(0)
    names = sorted({name for node in nodes for name in node.inputs if name.startswith("w")})
    weights = {name: rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 4 for name in names}
    x, output = (Value(name, FLOAT, ("batch", WIDTH)) for name in ("x", "output"))
    return Graph("net", (x,), (output,), nodes, weights)


CHAIN = graph(
    Node("MatMul", ("x", "w0"), ("h0",)),
    *(
        node
        for i in range(3)
        for node in (
            Node("MatMul", (f"h{i}", f"w{i + 1}"), (f"a{i}",)),
            Node("Tanh", (f"a{i}",), (f"b{i}",)),
            Node("Add", (f"h{i}", f"b{i}"), (f"h{i + 1}",)),
        )
    ),
    Node("MatMul", ("h3", "w4"), ("output",)),
)
AROUND = graph(  # a level that is joined with the one above it, as in a U-Net
    Node("MatMul", ("x", "w0"), ("level",)),
    Node("MatMul", ("level", "w1"), ("inner",)),
    Node("Tanh", ("inner",), ("deep",)),
    Node("MatMul", ("deep", "w2"), ("up",)),
    Node("Concat", ("up", "level"), ("both",), {"axis": 1}),
    Node("Slice", ("both", "begin", "end", "axis"), ("half",)),
    Node("Add", ("half", "level"), ("joined",)),
    Node("MatMul", ("joined", "w3"), ("output",)),
)
ENDS = {name: np.array([number], np.int64) for name, number in (("begin", 0), ("end", WIDTH), ("axis", 1))}
AROUND = AROUND.with_nodes(AROUND.nodes, ENDS)


def same(whole: Graph, pair: Pair) -> float:
    """The largest difference of the shallow graph, fed with what the full one returns."""
    x = np.random.default_rng(1).standard_normal((3, WIDTH)).astype(np.float32)
    full = run(pair.full, {"x": x})
    np.testing.assert_array_equal(full["output"], run(whole, {"x": x})["output"])
    shallow = run(pair.shallow, {"x": x, **{name: full[name] for name in pair.tensors}})
    return float(np.abs(shallow["output"] - full["output"]).max())


def test_a_level_is_cut_off_where_x_goes_around_it() -> None:
    assert single_cuts(AROUND) == {"up": 0.5, "both": 0.5, "half": 0.5, "inner": 0.75, "deep": 0.75}
    pair = cut(AROUND, ("up",))
    assert same(AROUND, pair) < 1e-6 and pair.share == 0.5
    assert encoder_cut(AROUND) == ("level",)
    decoder = cut(AROUND, ("level",))
    assert same(AROUND, decoder) < 1e-6 and [value.name for value in decoder.shallow.inputs] == ["level"]


def test_the_middle_of_a_chain_is_carried_as_what_it_adds() -> None:
    assert single_cuts(CHAIN) == {}  # every cut leaves x out, or nothing out
    pair = residual_cut(CHAIN, "h1", "h3")
    assert same(CHAIN, pair) < 1e-5 and pair.share == pytest.approx(3 / 5)


def test_a_correction_is_by_channel() -> None:
    facts = DenoiserFacts(ScheduleSpec("flow"), "flow")
    plan = cached(compile_plan("ddim:3", facts), (False, True, False), 0)
    scale, shift, fed = np.array([[2.0], [3.0]]), np.array([[0.5], [0.0]]), []

    def network(index, step, u, taken):
        fed.append(taken.get("features"))
        return [u], {"features": u}

    draws = np.random.default_rng(0).standard_normal((1, 2, 4)).astype(np.float32)
    slots = first_slots(plan, lambda name, rows: np.zeros(0), 1)
    finish(plan, execute(corrected(plan, {1: (scale, shift)}), Carrying(network, slots), lambda number: draws))
    np.testing.assert_allclose(fed[1], draws * scale + shift, rtol=1e-6)
