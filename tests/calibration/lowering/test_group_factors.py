"""Scales of groups as factors in the graph: the same values, each group on a separate grid."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.calibration.lowering.encoding import Encoding, asymmetric_uint8, factor_name, product_name
from fewstep.calibration.lowering.group_factors import GREATEST, add_group_factors
from fewstep.calibration.lowering.quantize import lower
from fewstep.calibration.ranges.table import Range, Ranges, RangesTable
from fewstep.graph.graph import GROUP, Array, Graph
from fewstep.graph.index import index
from fewstep.graph.selection import select_int8_ops
from fewstep.graph.session import run
from fewstep.graph.types import infer_types
from tests.calibration.every_target import UNPLACED
from tests.calibration.lowering.bodies.small_body import EDGES, FACTORS, body, edit_nodes, feeds, open_simulation, table
from tests.onnx_text import graph_of_text

HALF, FLOAT = np.dtype(np.float16), np.dtype(np.float32)


def codes(prepared: Graph, scales: tuple[float, ...] = (0.1, 2.0, 0.5)) -> dict[str, Encoding]:
    """Return the codes of the activations that the selected operations read."""
    code = Encoding(np.array(scales), np.uint8(3))
    return {op.x: code for op in select_int8_ops(prepared)}


@pytest.mark.parametrize("spatial", [1, 2])
def test_factors_change_nothing_in_any_group(spatial: int) -> None:
    prepared = body(spatial)
    graph, ops, single = add_group_factors(prepared, select_int8_ops(prepared), codes(prepared), {}, FLOAT)
    names = ["output", *(op.name for op in select_int8_ops(prepared))]  # tensors keep their meaning
    expected = run(prepared, feeds(prepared), names)
    for group in range(3):
        found = run(graph, feeds(prepared) | {GROUP: np.array([group])}, names)
        for name in names:
            np.testing.assert_allclose(found[name], expected[name], atol=2e-6 * np.abs(expected[name]).max())
    assert [op.name for op in ops] == [product_name(op.name) for op in select_int8_ops(prepared)]
    assert all(code.scales == [0.1] and code.zero_point == 3 for code in single.values())
    assert single.keys() == {op.x for op in ops}


def test_one_table_is_gathered_for_all_and_what_several_read_is_divided_once() -> None:
    prepared = body()
    graph, _, _ = add_group_factors(prepared, select_int8_ops(prepared), codes(prepared), {}, HALF)
    assert graph.ops().count("Gather") == 1 and graph.ops().count("Div") == 3  # two operations read a1
    assert graph.constants["factors()"].shape == (3, 3)
    np.testing.assert_allclose(graph.constants["factors()"][:, 0], [1.0, 20.0, 5.0], rtol=1e-6)


def test_a_graph_whose_codes_have_one_scale_stays_as_it_is() -> None:
    prepared = body()
    graph, ops, single = add_group_factors(prepared, select_int8_ops(prepared), codes(prepared, (0.1,)), {}, HALF)
    assert graph is prepared and ops == select_int8_ops(prepared) and single == codes(prepared, (0.1,))


def test_a_tensor_of_one_scale_stays_next_to_one_of_several() -> None:
    prepared = body()
    mixed = codes(prepared) | {"tokens": codes(prepared, (0.3,))["tokens"]}
    graph, ops, single = add_group_factors(prepared, select_int8_ops(prepared), mixed, {}, HALF)
    (plain,) = (op for op in ops if op.x == "tokens")
    assert plain.name == "mixed" and single["tokens"] is mixed["tokens"]
    assert not any(factor_name("tokens") in node.outputs for node in graph.nodes)


@pytest.mark.parametrize("spatial", [1, 2])
def test_around_convolutions_factors_have_the_axes_of_a_picture(spatial: int) -> None:
    prepared = body(spatial)
    graph, ops, _ = add_group_factors(prepared, select_int8_ops(prepared), codes(prepared), {}, FLOAT)
    idx, types = index(graph), infer_types(graph)
    axes = {"Conv": (1,) * (2 + spatial)}
    for op in ops:
        (product,) = idx.consumers[op.name]
        division = idx.producers[op.node.inputs[0]]
        assert (division.op, product.op) == ("Div", "Mul")
        for factor in (division.inputs[1], product.inputs[1]):
            assert types.shape(factor) == axes.get(op.node.op, (1,))
    assert graph.ops().count("Reshape") - prepared.ops().count("Reshape") == 3  # the table, h1 and a1


def test_a_bias_inside_goes_after_the_factor() -> None:
    prepared = body()
    biased = edit_nodes(
        prepared, "h2 shortcut", "inside", constants={"inside": np.linspace(-1, 1, 32, dtype=np.float32)}
    )
    graph, ops, _ = add_group_factors(biased, select_int8_ops(biased), codes(biased), {}, FLOAT)
    assert not any(op.bias for op in ops)
    expected = run(biased, feeds(biased))["output"]
    found = run(graph, feeds(biased) | {GROUP: np.array([1])})["output"]
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    "scales, finest, factors",
    [
        ((1e-3, 1e-3 * GREATEST), 1e-3, (1.0, GREATEST)),
        ((1e-9, 3.0), 3.0 / GREATEST, (1.0, GREATEST)),  # the finest takes a coarser scale
        ((1e-9, 1e-8), float(np.finfo(HALF).tiny), (1.0, 1.0)),  # float16 has none so fine
        ((400.0, 1e9), 400.0, (1.0, 65504 / 400)),  # nor one so coarse
    ],
)
def test_factors_neither_overflow_nor_vanish(
    scales: tuple[float, ...], finest: float, factors: tuple[float, ...]
) -> None:
    prepared = body()
    graph, _, single = add_group_factors(prepared, select_int8_ops(prepared), codes(prepared, scales), {}, HALF)
    table = graph.constants["factors()"][:, 0]
    assert single["a1_scaled"].scales[0] == pytest.approx(finest)
    np.testing.assert_allclose(table, factors, rtol=1e-6)
    assert (table >= 1).all() and table.max() <= GREATEST * (1 + 1e-6)  # what is divided only becomes smaller


def linear() -> Graph:
    """x [B, 32] -> a = x -> b = a W -> output, W of multiples of 1/128, which int8 and float16 hold exactly."""
    weight = np.random.default_rng(0).integers(-127, 128, (32, 32)).astype(np.float32) / 128
    weight[0] = 127 / 128  # the greatest of every column: its scale is 1/128
    eye = np.eye(32, dtype=np.float32)
    text = "{ a = MatMul(x, first) b = MatMul(a, w) output = MatMul(b, last) }"
    return graph_of_text(f"(float[batch, 32] x) => (float[batch, 32] output) {text}", first=eye, w=weight, last=eye)


def reaching(*reach: float, low: float = -1.0) -> Ranges:
    """Return ranges [low * r, r] for each group."""
    each = tuple(Range(low * r, r) for r in reach)
    return Ranges(Range(low * max(reach), max(reach)), each, max(reach), reach)


@pytest.mark.parametrize("low", [-1.0, -0.05])  # the second is centred
def test_the_error_of_each_group_is_that_of_its_own_rounding(low: float) -> None:
    """Uniform noise of one step has the variance step^2 / 12 for each activation, multiplied by the squares of the
    weights.
    """
    graph = linear()
    of_a = reaching(1.0, 100.0, low=low)
    ranges = RangesTable("0" * 64, "ddim:2", (0.0,), "minmax", {"a": of_a, "b": of_a, "output": of_a})
    whole = replace(ranges, groups=(), tensors={"a": replace(of_a, per_group=(of_a.pooled,))})
    grouped, pooled = (open_simulation(lower(graph, table, UNPLACED).graph) for table in (ranges, whole))
    unit = np.random.default_rng(1).uniform(low, 1, (256, 32)).astype(np.float16).astype(np.float32)
    gain = np.sqrt(np.square(graph.constants["w"]).sum(axis=0).mean() / 12)

    def error(found: Array, x: Array) -> float:
        return float(np.sqrt(np.square(found - x @ graph.constants["w"]).mean()))

    for group, reach in enumerate((1.0, 100.0)):
        x = reach * unit
        own = error(grouped({"x": x, GROUP: np.array([group])})["output"], x)
        assert own == pytest.approx(reach * (1 - low) / 255 * gain, rel=0.1)
    lost = error(pooled({"x": unit})["output"], unit)
    assert lost > 30 * error(grouped({"x": unit, GROUP: np.array([0])})["output"], unit)


def test_pairs_and_the_group_are_all_that_a_cpu_target_needs_too() -> None:
    """With the zero points that OpenVINO takes, the factors are the same."""
    prepared, ranges = body(), table(body(), EDGES)
    found = {op.x: asymmetric_uint8(ranges[op.x], True) for op in select_int8_ops(prepared)}
    graph, _, single = add_group_factors(prepared, select_int8_ops(prepared), found, {}, FLOAT)
    assert [single[f"{x}_scaled"].zero_point for x in found] == [code.zero_point for code in found.values()]
    np.testing.assert_allclose(graph.constants["factors()"][:, 0], np.array(FACTORS) / FACTORS[0], rtol=1e-6)
    assert index(graph).consumers[GROUP][0].op == "Gather"
