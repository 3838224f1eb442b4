"""A constant added to the output: on every target, folded where that is exact, along the axis of channels."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.calibration.choosing.opened import open_lowered
from fewstep.graph.graph import BATCH, GROUP, Graph, Node, Value
from fewstep.graph.session import run
from fewstep.lowering.output_bias import channel_axis, with_output_bias
from fewstep.lowering.quantize import lower
from fewstep.lowering.scheme import Target
from tests.calibration.every_target import every_target
from tests.lowering.bodies.small_body import EDGES, body, feeds, table

F32 = np.dtype(np.float32)
BIAS = np.array([[0.5, -0.25, 0.125], [0.1, 0.2, 0.3], [-3.0, 2.0, 1.0]])  # [groups, channels]


def _rounding(target: Target) -> float:
    """Of outputs of about 1, in the float type of the target's engine."""
    return 0.01 if target.name.endswith("bf16") else 2e-6


@every_target
@pytest.mark.parametrize("groups", [1, 3])
def test_every_target_adds_it_to_the_output(target: Target, groups: int) -> None:
    graph = body()
    lowered = lower(graph, table(graph, EDGES if groups > 1 else ()), target).graph
    biased = with_output_bias(lowered, BIAS[:groups])
    plain, other = open_lowered(lowered, target), open_lowered(biased, target)
    for group in range(groups):
        given = {**feeds(graph), GROUP: np.array([group])}
        expected = plain(given)["output"] + BIAS[group].astype(np.float32).reshape(1, 3, 1, 1)
        np.testing.assert_allclose(other(given)["output"], expected, rtol=0, atol=_rounding(target))
    assert [value.name for value in biased.outputs] == ["output"] and biased.inputs == lowered.inputs
    assert sum(node.op == "Gather" and node.name.startswith("output") for node in biased.nodes) == (groups > 1)


def test_a_body_that_ends_in_a_sum_takes_it_into_the_sum() -> None:
    graph = replace(body(), outputs=(Value("h4_biased", F32, (BATCH, 3, 8, 8)),))
    graph = graph.with_nodes(graph.nodes[:-1])
    biased = with_output_bias(graph, BIAS[:1])
    assert biased.ops() == graph.ops() and len(biased.constants) == len(graph.constants)
    given = feeds(graph)
    expected = run(graph, given)["h4_biased"] + BIAS[0].astype(np.float32).reshape(1, 3, 1, 1)
    np.testing.assert_allclose(run(biased, given)["h4_biased"], expected, rtol=0, atol=1e-6)
    assert (
        len(
            with_output_bias(replace(graph, inputs=(*graph.inputs, Value(GROUP, np.dtype(np.int64), (1,)))), BIAS).nodes
        )
        == len(graph.nodes) + 2
    )


def test_a_sum_that_others_share_keeps_its_constant() -> None:
    weights = {"w": np.ones((3, 3), np.float32), "b": np.ones(3, np.float32)}
    nodes = (Node("Add", ("x", "b"), ("h",)), Node("MatMul", ("h", "w"), ("m",)), Node("Add", ("m", "b"), ("y",)))
    graph = Graph("g", (Value("x", F32, (BATCH, 3)),), (Value("y", F32, (BATCH, 3)),), nodes, weights)
    x = np.zeros((1, 3), np.float32)
    np.testing.assert_array_equal(run(with_output_bias(graph, BIAS[:1]), {"x": x})["y"], [[4.5, 3.75, 4.125]])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="2 numbers for an output of shape"):
        with_output_bias(body(), BIAS[:1, :2])
    with pytest.raises(ValueError, match="3 groups for a graph without the input 'group'"):
        with_output_bias(body(), BIAS)


def sequence(op: str, swapped: bool, hidden: bool = False) -> Graph:
    """[B, 6, 6] by a convolution, whose channels are on axis 1, or a product, whose channels are on axis 2."""
    shape = (6, 6, 1) if op == "Conv" else (6, 6)
    nodes = [Node(op, ("x", "w"), ("h",)), Node("Add", ("h", "b"), ("s",))]
    nodes.append(
        Node("Transpose", ("s",), ("y",), {"perm": [0, 2, 1]}) if swapped else Node("Identity", ("s",), ("y",))
    )
    nodes += [Node("Softmax", ("y",), ("z",))] if hidden else [Node("Mul", ("y", "b"), ("z",))]
    values = [Value(name, F32, (BATCH, 6, 6)) for name in "xz"]
    weights = {"w": np.ones(shape, np.float32), "b": np.ones(1, np.float32)}
    return Graph("sequence", (values[0],), (values[1],), tuple(nodes), weights)


@pytest.mark.parametrize(
    ("op", "swapped", "axis"), [("Conv", False, 1), ("Conv", True, 2), ("MatMul", False, 2), ("MatMul", True, 1)]
)
def test_channels_of_a_sequence_are_where_its_last_operation_leaves_them(op: str, swapped: bool, axis: int) -> None:
    assert channel_axis(sequence(op, swapped)) == axis


@pytest.mark.parametrize(("shape", "axis"), [((16, 2), 2), ((2, 16), 1), (("height", 4), 2), (("height", "width"), 1)])
def test_a_hidden_one_is_the_shorter_axis(shape: tuple[int | str, ...], axis: int) -> None:
    graph = sequence("Conv", False, hidden=True)
    assert channel_axis(replace(graph, outputs=(Value("z", F32, (BATCH, *shape)),))) == axis
    assert channel_axis(body()) == 1
