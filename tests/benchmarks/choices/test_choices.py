"""What the ablation compares with: rounding by second moments, rescaled and joined graphs."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from choices.adaround import adaround, output_error
from choices.gptq import gptq
from choices.hessians import as_rows, drawn_patches, layer_hessians
from choices.joining import join_concat
from choices.local_bias import local_corrections, operations_alone
from choices.rescaling import dilation, reaches, rescaled_inputs, smoothing
from choices.rows import Row, around_128, dilated, joined, smoothed
from choices.seen import Seen

from fewstep.calibration.calibrate import open_task
from fewstep.calibration.count import count_activations, ranges_table
from fewstep.graph.graph import BATCH, Graph, Node, Value
from fewstep.graph.passes.concat import split_concat
from fewstep.graph.selection import selected_ops, weighted_op
from fewstep.graph.session import run
from fewstep.lowering.quantize import lower_graph
from fewstep.lowering.targets.cpu_x86 import CPU_X86
from fewstep.ranges.observe import Counts
from fewstep.ranges.table import Method, Range, Ranges, RangesTable
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle
from tests.lowering.bodies.small_body import body, feeds, table

F32 = np.dtype(np.float32)


@pytest.fixture(scope="module")
def layer() -> tuple[np.ndarray, np.ndarray]:
    """Weights [16, 72], and the second moments of inputs that go together, as neighbouring pixels do."""
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((2048, 12)) @ rng.standard_normal((12, 72)), 0)
    return rng.standard_normal((16, 72)), x.T @ x / len(x)


@pytest.mark.parametrize("largest", [127, 7])
@pytest.mark.parametrize(("rounding", "least"), [(gptq, 0.3), (adaround, 0.4)], ids=["gptq", "adaround"])
def test_rounding_by_second_moments_loses_less_than_half_of_what_nearest_does(
    layer: tuple[np.ndarray, np.ndarray], rounding: object, least: float, largest: int
) -> None:
    rows, hessian = layer
    scales = np.abs(rows).max(axis=1) / largest

    def lost(integers: np.ndarray) -> float:
        assert np.array_equal(integers, np.rint(integers)) and np.abs(integers).max() <= largest
        return float(output_error(integers * scales[:, None] - rows, hessian).mean())

    found = rounding(rows, scales, hessian, largest)  # type: ignore[operator]
    assert lost(found) < least * lost(np.rint(rows / scales[:, None]))


def test_without_correlation_nearest_is_best_and_both_find_it() -> None:
    rows = np.random.default_rng(1).uniform(-7, 7, (4, 32))
    for rounding in (gptq, adaround):
        np.testing.assert_array_equal(rounding(rows, np.ones(4), np.eye(32), 7), np.rint(rows))


@pytest.mark.parametrize("spatial", [1, 2])
def test_patches_times_weights_are_the_convolution(spatial: int) -> None:
    """Strides, pads and dilations; and the linear layer."""
    prepared = body(spatial)
    dilated = tuple(
        replace(node, attributes=dict(node.attributes) | {"dilations": [2] * spatial, "pads": [2] * 2 * spatial})
        if node.output == "h2"
        else node
        for node in prepared.nodes
    )
    prepared = replace(prepared, nodes=dilated)
    ops = selected_ops(prepared)
    values = run(prepared, feeds(prepared), [name for op in ops for name in (op.x, op.name)])
    for op in ops:
        weight = prepared.constants[op.weight]
        kernel = weight.shape[2:] if op.node.op == "Conv" else ()
        patches = drawn_patches(op, values[op.x], kernel, np.random.default_rng(0), 10**6)
        channels = np.moveaxis(values[op.name], 1 if kernel else -1, -1).reshape(-1, weight.shape[op.axis])
        np.testing.assert_allclose(patches @ as_rows(op, weight).T, channels, atol=1e-4)
        few = drawn_patches(op, values[op.x], kernel, np.random.default_rng(0), 8)
        assert few.shape == (8, patches.shape[1]) and all((row == patches).all(axis=1).any() for row in few)


def test_second_moments_are_means_over_the_plan(tmp_path: Path) -> None:
    task = open_task(replace(FIRST, bundle=write_bundle(tmp_path / "bundle", denoiser())))
    (op,) = selected_ops(task.prepared)
    hessian = layer_hessians(task, [op])[op.name]
    assert hessian.shape == (16 * 9, 16 * 9) and np.array_equal(hessian, hessian.T)
    assert np.linalg.eigvalsh(hessian).min() > -1e-6 * hessian.max()
    reach = reaches(task, [op])[op.name]
    assert np.all(np.diag(hessian).reshape(16, 9).max(axis=1) <= reach**2)


def test_dilation_fills_each_input_channel_up_to_what_output_channels_reach() -> None:
    weight = np.array([[4.0, 1.0, 2.0], [0.5, 1.0, 0.25]], np.float32)[:, :, None, None]  # [outputs, inputs, 1, 1]
    prepared = Graph("one", (), (), (), {"w": weight})
    op = weighted_op(Node("Conv", ("x", "w"), ("y",)), prepared)
    assert op is not None
    np.testing.assert_allclose(dilation(op, prepared), [1.0, 1.0, 2.0])
    grown = weight * dilation(op, prepared).reshape(1, 3, 1, 1)
    np.testing.assert_array_equal(np.abs(grown).max(axis=(1, 2, 3)), np.abs(weight).max(axis=(1, 2, 3)))


def test_smoothing_makes_inputs_and_weights_reach_equally_far() -> None:
    prepared = body()
    for op in selected_ops(prepared):
        reach = np.linspace(1, 9, op.channels_in)
        factors = smoothing(op, prepared, reach)
        axis = 1 if op.node.op == "Conv" else 0
        magnitudes = np.abs(np.moveaxis(prepared.constants[op.weight], axis, 0)).reshape(op.channels_in, -1).max(axis=1)
        np.testing.assert_allclose(reach / factors, magnitudes * factors, rtol=1e-6)


def test_rescaled_graphs_compute_the_same() -> None:
    prepared = body()
    ops = selected_ops(prepared)
    factors = {op.name: 2.0 ** np.arange(-4, 4).repeat(op.channels_in // 8) for op in ops}
    graph = rescaled_inputs(prepared, ops, factors)
    assert len(graph.nodes) == len(prepared.nodes) + len(ops)
    assert {op.name for op in selected_ops(graph)} != set() and graph.outputs == prepared.outputs
    expected = run(prepared, feeds(prepared))["output"]
    np.testing.assert_allclose(run(graph, feeds(prepared))["output"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("row", "method"),
    [(joined, "channels"), (dilated, "mse"), (partial(smoothed, ("Conv",)), "mse"), (partial(smoothed, ()), "mse")],
)
def test_rows_that_rescale_channels_themselves_give_them_one_scale(
    row: Row, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods: list[str] = []
    table_of = Seen.table

    def counted(seen: Seen, counts: Counts, method: Method = "channels") -> RangesTable:
        methods.append(method)
        return table_of(seen, counts, method)

    monkeypatch.setattr(Seen, "table", counted)
    task = open_task(replace(FIRST, bundle=write_bundle(tmp_path / "bundle", denoiser())))
    body_of_row = row(Seen(task))
    assert methods == [method] and any(node.op == "QLinearConv" for node in body_of_row.graph.nodes)


def test_joining_undoes_the_splitting() -> None:
    """The Concat is there still, as a normalisation reads it."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 48, 1, 1)).astype(np.float32)
    nodes = (
        Node("Concat", ("x", "y"), ("cat",), {"axis": 1}),
        Node("Conv", ("cat", "w"), ("both",)),
        Node("Add", ("both", "bias"), ("biased",)),
        Node("Relu", ("cat",), ("kept",)),
    )
    values = {name: Value(name, F32, (BATCH, size, 4, 4)) for name, size in (("x", 16), ("y", 32))}
    outputs = (Value("biased", F32, (BATCH, 16, 4, 4)), Value("kept", F32, (BATCH, 48, 4, 4)))
    constants = {"w": weight, "bias": rng.standard_normal((1, 16, 1, 1)).astype(np.float32)}
    whole = Graph("concat", tuple(values.values()), outputs, nodes, constants)
    split = split_concat(whole)
    joined = join_concat(split)
    assert split.ops().count("Conv") == 2 and joined.ops().count("Conv") == 1 and joined.ops().count("Add") == 1
    np.testing.assert_array_equal(joined.constants["w"], weight)
    expected, found = (run(graph, feeds(whole))["biased"] for graph in (whole, joined))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_layer_alone_answers_for_its_own_rounding(tmp_path: Path) -> None:
    """Given the float activations, its mean is that of the float layer once it is corrected."""
    prepared = body()
    lowered, ops, _ = lower_graph(prepared, table(prepared), CPU_X86)
    graph = operations_alone(lowered, ops, prepared)
    assert set(graph.ops()) == {"QuantizeLinear", "QLinearConv", "DequantizeLinear", "MatMulIntegerToFloat"}
    exact = run(prepared, feeds(prepared), [name for op in ops for name in (op.x, op.name)])
    found = run(graph, {f"given({op.x})": exact[op.x] for op in ops})
    for op in ops:
        step = 2 * np.abs(exact[op.name]).max() / 255
        assert 0 < np.abs(found[op.name] - exact[op.name]).max() < 4 * step

    task = open_task(replace(FIRST, bundle=write_bundle(tmp_path / "bundle", denoiser())))
    ranges = ranges_table(count_activations(task), task.prepared, "0" * 64, task.plan.name, "mse")
    corrections = local_corrections(task, ranges, CPU_X86)
    assert corrections["h1"].shape == (3, 16) and 0 < np.abs(corrections["h1"]).max() < 0.1


def test_a_code_around_the_middle_reaches_as_far_as_the_further_end() -> None:
    ranges = Ranges(Range(-1.0, 3.0), (Range(-1.0, 3.0),), 3.0, (3.0,))
    code = around_128(ranges, True)
    assert int(code.zero_point) in (127, 128) and np.isclose(code.scales[0], 3 / 127, rtol=0.01)
