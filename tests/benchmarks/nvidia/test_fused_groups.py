"""Groups of an int8 body compute the same integers as ONNX Runtime."""

import ml_dtypes
import numpy as np
import pytest

from benchmarks.nvidia.cudnn.fused_groups import FUSED, fuse_groups, operations_of
from benchmarks.nvidia.cudnn.operations import Operation
from fewstep.calibration.lowering.quantize import lower
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT
from fewstep.graph.graph import GROUP, Graph, Node, Value
from fewstep.graph.session import run
from fewstep.measure.simulation import open_simulated
from fewstep.plans.errors import UserError
from tests.bundles import value
from tests.calibration.lowering.bodies.small_body import EDGES, SELECTED, body, feeds, table
from tests.exact_int8 import open_exact

torch = pytest.importorskip("torch")
from benchmarks.nvidia.cudnn.executor import Executor, IntegerKernels  # noqa: E402


def lower_body(spatial: int = 2, floats: str = "float16") -> Graph:
    target = TENSORRT if floats == "float16" else TENSORRT.wider
    assert target is not None
    return lower(body(spatial), table(body(spatial), EDGES), target).graph


def body_feeds(spatial: int) -> dict[str, np.ndarray]:
    return {**feeds(body(spatial)), GROUP: np.array([1])}


def execute(graph: Graph, given: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, tuple], IntegerKernels]:
    """Return the output of the groups, the input of each int8 group, and its kernels."""
    kernels, read = IntegerKernels(), {}

    def compute(of: Operation, name: str, x: object, weights: object, operands: object) -> object:
        if of.precision == "int8":
            read[name] = (of, x, weights)
        return kernels(of, name, x, weights, operands)  # type: ignore[arg-type]

    executor = Executor(fuse_groups(graph), "cpu", compute)  # type: ignore[arg-type]
    with torch.no_grad():
        (output,) = executor({name: torch.from_numpy(array) for name, array in given.items()})
    return output.numpy(), read, kernels


def integers_of_onnxruntime(of: Operation, x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """ConvInteger or MatMulInteger, for x as uint8 with a zero point of 128."""
    shifted = (x.astype(np.int16) + 128).astype(np.uint8)
    op, attributes = (
        ("ConvInteger", {"pads": of.pads, "strides": of.strides}) if of.is_convolution else ("MatMulInteger", {})
    )
    node = Node(op, ("x", "weights", "zero"), ("sums",), attributes)
    constants = {"weights": weights, "zero": np.array(128, np.uint8)}
    inputs = (Value("x", shifted.dtype, shifted.shape),)
    outputs = (Value("sums", np.dtype(np.int32), of.y),)
    return open_exact(Graph("integers", inputs, outputs, (node,), constants))({"x": shifted})["sums"]


@pytest.mark.parametrize(("spatial", "floats"), [(1, "float16"), (2, "float16"), (2, "bfloat16")])
def test_integers_are_those_of_onnxruntime(spatial: int, floats: str) -> None:
    _, read, kernels = execute(lower_body(spatial, floats), body_feeds(spatial))
    assert len(read) == len(SELECTED)
    for name, (of, x, weights) in read.items():
        expected = integers_of_onnxruntime(of, x.numpy(), weights.numpy())
        assert np.abs(expected).max() > 1000
        assert (kernels.sums[name].numpy() == expected).all()


@pytest.mark.parametrize(
    ("spatial", "floats", "limit"), [(1, "float16", 0.02), (2, "float16", 0.02), (2, "bfloat16", 0.05)]
)
def test_samples_are_those_of_the_simulation(spatial: int, floats: str, limit: float) -> None:
    """Up to rounding in 16 bits, which moves some values to the next int8 code."""
    graph, given = lower_body(spatial, floats), body_feeds(spatial)
    expected = open_simulated(graph)(given)["output"]
    found, *_ = execute(graph, given)
    assert np.linalg.norm(found - expected) < limit * np.linalg.norm(expected)


def test_bfloat16_is_the_type_of_results_and_of_convolutions_in_16_bits() -> None:
    graph = lower_body(floats="bfloat16")
    found = operations_of(graph, fuse_groups(graph), 2).values()
    assert {(of.precision, of.result) for of in found} == {("int8", "bfloat16"), ("bfloat16", "bfloat16")}


def test_groups_hold_what_follows_their_sums() -> None:
    """One of two sums takes the other as a residual, followed by SiLU. h2 is followed by a modulation."""
    graph = lower_body()
    found = {
        name: of.epilogue for name, of in operations_of(graph, fuse_groups(graph), 2).items() if of.precision == "int8"
    }
    assert sorted(found.values()) == [
        ("scale", "bias"),
        ("scale", "bias"),
        ("scale", "bias"),
        ("scale", "bias", "residual", "silu"),
    ]


def test_convolutions_in_half_are_groups_too() -> None:
    graph = lower_body()
    half = [of for of in operations_of(graph, fuse_groups(graph), 2).values() if of.precision == "half"]
    assert [(of.weights[:2], of.epilogue) for of in half] == [((16, 3), ("bias", "silu")), ((3, 16), ("bias",))]


def test_operations_have_the_shapes_of_a_batch() -> None:
    graph = lower_body()
    product = next(of for of in operations_of(graph, fuse_groups(graph), 5).values() if not of.is_convolution)
    assert (product.x, product.weights) == ((1, 5 * 64, 32), (1, 32, 32))


def group_before(last: str) -> Graph:
    """QuantizeLinear -> int8 convolution -> bias -> SiLU -> `last`."""
    constants = {
        "step": np.array(0.5, np.float16),
        "zero": np.array(0, np.int8),
        "weights": np.arange(-8, 8, dtype=np.int8).reshape(2, 2, 2, 2),
        "bias": np.array([0.5, -0.25], np.float16).reshape(1, 2, 1, 1),
        "fine": np.array(0.25, np.float16),
    }
    nodes = (
        Node("Cast", ("x",), ("half",), {"to": 10}),
        Node("QuantizeLinear", ("half", "step", "zero"), ("x8",)),
        Node("DequantizeLinear", ("x8", "step", "zero"), ("rounded",)),
        Node("DequantizeLinear", ("weights", "step", "zero"), ("w",)),
        Node("Conv", ("rounded", "w"), ("sums",), {"pads": [0, 1, 0, 1]}),
        Node("Add", ("sums", "bias"), ("biased",)),
        Node("Sigmoid", ("biased",), ("gate",)),
        Node("Mul", ("biased", "gate"), ("silu",)),
        Node("QuantizeLinear", ("silu", "fine", "zero"), ("y8",)),
        Node("DequantizeLinear", ("y8", "fine", "zero"), ("y",)),
        Node("Cast", (last,), ("output",), {"to": 1}),
    )
    return Graph("pair", (value("x", "batch", 2, 3, 3),), (value("output", "batch", 2, 2, 4),), nodes, constants)


def test_a_rounding_that_alone_reads_a_group_is_a_part_of_it() -> None:
    fused = fuse_groups(group_before("y"))
    (group,) = [node for node in fused.nodes if node.op == FUSED]
    assert group.attributes["epilogue"] == ("scale", "bias", "silu", "inverse_step")
    x = np.linspace(-2, 2, 36, dtype=np.float32).reshape(2, 2, 3, 3)
    found, *_ = execute(group_before("y"), {"x": x})
    expected = run(group_before("y"), {"x": x})["output"]
    np.testing.assert_allclose(found, expected, atol=0.25)  # one step, where float16 rounds to another
    assert np.mean(found != expected) < 0.1


def test_what_another_operation_reads_ends_a_group() -> None:
    fused = fuse_groups(group_before("silu"))
    (group,) = [node for node in fused.nodes if node.op == FUSED]
    assert group.attributes["epilogue"] == ("scale", "bias", "silu")


def test_other_floats_are_refused() -> None:
    graph = group_before("y")
    other = graph.with_nodes(graph.nodes, {"fine": np.array(0.25, ml_dtypes.bfloat16)})
    with pytest.raises(UserError, match="type bfloat16"):
        fuse_groups(other)
