"""Lowering for any target: its requirements, its refusals, and the parts that it leaves unchanged."""

from collections import Counter

import numpy as np
import pytest

from fewstep.calibration.lowering.emulated_zero_points import centre
from fewstep.calibration.lowering.encoding import Encoding, scale_name, zero_point_name
from fewstep.calibration.lowering.group_scales import GROUP_INPUT
from fewstep.calibration.lowering.quantize import lower, scales_and_zero_points, tensors_to_encode
from fewstep.calibration.lowering.scheme import Target
from fewstep.graph.graph import GROUP
from fewstep.graph.selection import select_int8_ops
from fewstep.graph.session import open_session, run
from fewstep.plans.errors import UserError
from tests.calibration.every_target import every_target, selective_target
from tests.calibration.lowering.bodies.small_body import EDGES, FACTORS, SELECTED, body, feeds, sqnr, table, without
from tests.onnx_text import graph_of_text
from tests.refusals import refuses


@selective_target
@pytest.mark.parametrize("spatial", [1, 2])
def test_every_selected_operation_runs_in_int8_close_to_float(target: Target, spatial: int) -> None:
    prepared = body(spatial)
    lowered = lower(prepared, table(prepared), target)
    assert set(lowered.coverage.int8_ops) == set(SELECTED)
    assert lowered.coverage.float_ops == ("h1", "h4")
    expected = run(prepared, feeds(prepared))["output"]
    found = open_session(lowered.graph)(feeds(prepared))["output"]
    assert sqnr(expected, found) > 30
    assert lowered.graph.inputs == prepared.inputs and lowered.graph.outputs == prepared.outputs


@every_target
def test_a_tensor_without_a_range_is_named(target: Target) -> None:
    prepared = body()
    for name in tensors_to_encode(select_int8_ops(prepared), target.scheme):
        with pytest.raises(UserError, match=f"no tensor '{name}'"):
            lower(prepared, without(table(prepared), name), target)


@selective_target
def test_each_activation_is_quantized_once(target: Target) -> None:
    prepared = body()
    graph = lower(prepared, table(prepared), target).graph
    read = Counter(node.inputs[0] for node in graph.nodes if node.op == "QuantizeLinear")
    centred = ["a1_centred", "a1_padded_centred", "tokens_centred", "a3_padded_centred"]  # by what pads it has
    assert read == Counter(
        centred if centre in target.scheme.arithmetic else ["a1", "tokens", "a3"]
    )  # a1 feeds two convolutions


@selective_target
def test_every_target_takes_ranges_by_group(target: Target) -> None:
    """Scales of a group round as constant ones do. The widest group has the pooled ranges, so its result is near float;
    the result of a narrow one is clipped.
    """
    prepared = body()
    grouped, pooled = (lower(prepared, table(prepared, edges), target) for edges in (EDGES, ()))
    assert grouped.groups == EDGES and grouped.graph.inputs == (*prepared.inputs, GROUP_INPUT)
    assert set(grouped.coverage.int8_ops) == set(SELECTED)
    expected = run(prepared, feeds(prepared))["output"]
    constant, by_group = (open_session(each.graph, fuse_qdq=False) for each in (pooled, grouped))
    narrow, *_, widest = (
        by_group(feeds(prepared) | {GROUP: np.array([group])})["output"] for group in range(len(FACTORS))
    )
    assert sqnr(expected, widest) > 30 > 25 > sqnr(expected, narrow)
    pooled_error = constant(feeds(prepared))["output"] - widest
    assert np.square(pooled_error).mean() < 1e-4 * np.square(widest).mean()


@every_target
def test_lowering_twice_is_refused(target: Target) -> None:
    prepared = body()
    lowered = lower(prepared, table(prepared), target).graph
    with pytest.raises(UserError, match="quantized already"):
        lower(lowered, table(prepared), target)


@every_target
def test_the_prepared_graph_is_untouched_and_the_result_always_the_same(target: Target) -> None:
    prepared = body()
    first, second = (lower(prepared, table(prepared, EDGES), target).graph for _ in range(2))
    assert prepared.nodes == body().nodes
    assert first.nodes == second.nodes and set(first.constants) == set(second.constants)
    for name, array in first.constants.items():
        np.testing.assert_array_equal(array, second.constants[name])


@every_target
def test_weights_that_are_not_finite_are_named(target: Target) -> None:
    prepared = body()
    broken = prepared.constants["h2.weight"].copy()
    broken[0] = np.nan
    with pytest.raises(UserError, match=r"weight 'h2\.weight' has NaN"):
        lower(prepared.with_nodes(prepared.nodes, {"h2.weight": broken}), table(prepared), target)


@every_target
def test_a_graph_with_nothing_to_lower_is_refused(target: Target) -> None:
    graph = graph_of_text("(float[batch, 4] x) => (float[batch, 4] y) { y = Relu(x) }")
    with refuses("no operation of graph 'small' can run in int8 (it has none)"):
        lower(graph, table(body()), target)


@selective_target
def test_a_graph_whose_operations_all_stay_in_float_is_refused(target: Target) -> None:
    prepared, ranges = body(), table(body(), EDGES)
    names = [op.name for op in select_int8_ops(prepared)]
    with refuses(f"every operation of graph {prepared.name!r} stays in float", "keep fewer in float"):
        lower(prepared, ranges, target, in_float=names)


def test_a_scale_for_all_groups_is_a_constant_next_to_those_of_groups() -> None:
    """Some activations of such a target have ranges by group, and others have not."""
    codes = {"a": Encoding(np.array([0.5]), np.int8(0)), "b": Encoding(np.array([0.25, 2.0]), np.int8(3))}
    sources = scales_and_zero_points(codes, np.dtype(np.float32))
    assert sources.constants[scale_name("a")] == 0.5 and sources.constants[zero_point_name("b")] == 3
    (split,) = (node for node in sources.nodes if node.op == "Split")
    assert split.outputs == (scale_name("b"),)
    np.testing.assert_array_equal(sources.constants["scales()"], [[0.25], [2.0]])
