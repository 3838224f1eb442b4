"""Cuts of graphs: fed with fresh tensors, the shallow graph gives the full one's output."""

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.caching.cached import cached, corrected
from benchmarks.caching.cut import Pair, branches, cut, encoder_cut, switched
from benchmarks.caching.schedules import by_block, updates
from benchmarks.caching.skipping import regions, stable
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
    pair = cut(AROUND, ("up",))
    assert same(AROUND, pair) < 1e-6
    assert encoder_cut(AROUND) == ("level",)
    decoder = cut(AROUND, ("level",))
    assert same(AROUND, decoder) < 1e-6 and [value.name for value in decoder.shallow.inputs] == ["level"]


def test_what_blocks_add_is_taken_in_the_place_of_blocks() -> None:
    assert branches(CHAIN) == ("b0", "b1", "b2")
    pair = cut(CHAIN, ("b1", "b2"))
    assert same(CHAIN, pair) < 1e-6 and sum(node.op == "MatMul" for node in pair.shallow.nodes) == 3


def test_switches_are_cuts() -> None:
    one, other = np.random.default_rng(2).standard_normal((2, 3, WIDTH)).astype(np.float32)
    former, names = run(cut(CHAIN, branches(CHAIN)).full, {"x": one}), branches(CHAIN)
    for taken in ((), ("b1",), ("b0", "b2"), names):
        flags = {f"taken({name})": np.array(name in taken) for name in names}
        carried = {f"carried({name})": former[name] for name in names}
        returned = run(switched(CHAIN, names), {"x": other, **flags, **carried})
        expected = run(cut(CHAIN, taken).shallow, {"x": other, **former})
        np.testing.assert_allclose(returned["output"], expected["output"], rtol=1e-6, atol=1e-7)
        assert all(np.array_equal(returned[name], former[name]) == (name in taken) for name in names)


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


def test_a_tensor_is_computed_where_others_lose_most_by_taking_it() -> None:
    rng = np.random.default_rng(0)
    costs = rng.random((6, 6))
    for count in (1, 2, 4):
        chosen = updates(costs, count)

        def lost(steps) -> float:
            return sum(costs[max(i for i in steps if i < k), k] for k in range(6) if k not in steps)

        every = [(0, *rest) for rest in combinations(range(1, 6), count - 1)]
        assert len(chosen) == count and lost(chosen) == pytest.approx(min(map(lost, every)))


def test_perceptrons_that_change_most_are_computed_with_those_behind_them() -> None:
    rng = np.random.default_rng(0)
    steady, lively = (scale * rng.standard_normal((5, 2, 3)) for scale in (0.1, 10.0))
    mask = by_block([lively, steady, lively, steady], 2, [True, True, False, True])
    own = [set(np.flatnonzero(~column)) for column in mask.T]
    assert own[0] >= own[1] | own[3] and len(own[2]) == 2 and all(0 in each for each in own)


def test_each_tensor_has_steps_of_its_own() -> None:
    mask = np.array([[False, False], [True, False], [True, True]])
    plan = cached(compile_plan("ddim:3", DenoiserFacts(ScheduleSpec("flow"), "flow")), mask, 0, ("a", "b"))
    assert [[read.bank for read in step.carry_in] for step in plan.steps] == [[], [0], [0, 1]]
    assert [[write.bank for write in step.carry] for step in plan.steps] == [[0, 1], [1], []]


def test_velocities_that_go_on_linearly_lose_no_step() -> None:
    """SADA leaves steps out where they do, and none before its first."""
    step = SimpleNamespace(branches=("cond",))

    def run(frozen=None):
        call, left_out = stable(lambda index, step, u: [u + index], 50, frozen)
        return [call(index, step, np.zeros((1, 1), np.float32))[0].item() for index in range(50)], left_out

    velocities, left_out = run()
    assert not any(left_out[:11]) and left_out[11] and run(left_out)[0] == velocities
    assert velocities[:12] == list(range(12))


def test_tokens_that_wait_keep_their_velocity() -> None:
    step = SimpleNamespace(branches=("cond",))
    for lowest in (False, True):
        call, partly = regions(lambda index, step, u: [u * (index + 1)], 30, 0.5, 1.0, 2, lowest)
        u = np.random.default_rng(0).standard_normal((1, 1, 4, 4)).astype(np.float32)
        outputs = [call(index, step, u)[0] for index in range(30)]
        assert partly[:4] == [False] * 4 and partly[4] and not partly[12]
        assert np.mean(outputs[4] == outputs[3]) == 0.5 and np.mean(outputs[4] == 5 * u) == 0.5
        assert np.array_equal(outputs[12], 13 * u)
