"""The reason why an operation is float."""

import numpy as np

from fewstep.calibration.lowering.coverage import count_coverage
from fewstep.graph.graph import BATCH, Graph, Node, Value
from fewstep.graph.selection import FEW_CHANNELS, OUTER, SCALED, STILL, explain_selection, select_int8_ops
from fewstep.report.operations import ACTIVATIONS, MAPPED, NO_FORM, UNSEEN, operation_coverage

F32 = np.dtype(np.float32)


def test_every_multiplying_operation_has_a_true_reason() -> None:
    shapes = {
        "first": (16, 3, 1, 1), "time_weight": (16, 16), "narrow": (8, 16, 1, 1), "wide": (16, 8, 1, 1),
        "inner": (16, 16, 1, 1), "up": (16, 16, 1, 1), "left": (4, 4), "gemm_weight": (16, 16), "last": (3, 16, 1, 1),
    }  # fmt: skip
    nodes = (
        Node("Conv", ("x", "first"), ("h1",)),
        Node("Gemm", ("time", "time_weight"), ("t",)),
        Node("Conv", ("h1", "narrow"), ("h2",)),
        Node("Conv", ("h2", "wide"), ("h3",)),
        Node("Conv", ("h3", "inner"), ("h4",)),
        Node("ConvTranspose", ("h4", "up"), ("h5",)),
        Node("MatMul", ("left", "h5"), ("h6",)),
        Node("MatMul", ("h6", "h5"), ("h7",)),
        Node("Reshape", ("h7", "rows"), ("h8",)),
        Node("Gemm", ("h8", "gemm_weight"), ("h9",), {"alpha": 0.5}),
        Node("Reshape", ("h9", "image"), ("h10",)),
        Node("Conv", ("h10", "last"), ("y",)),
    )
    constants = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    constants |= {"rows": np.array([-1, 16]), "image": np.array([-1, 16, 4, 4])}
    inputs = (Value("x", F32, (BATCH, 3, 4, 4)), Value("time", F32, (BATCH, 16)))
    graph = Graph("every kind", inputs, (Value("y", F32, (BATCH, 3, 4, 4)),), nodes, constants)
    found = operation_coverage(graph, "int8", count_coverage(graph, [op.name for op in select_int8_ops(graph)]))
    assert {operation.name: operation.reason for operation in found.operations} == {
        "h1": FEW_CHANNELS,
        "t": STILL,
        "h2": FEW_CHANNELS,
        "h3": FEW_CHANNELS,
        "h4": "",
        "h5": NO_FORM,
        "h6": NO_FORM,
        "h7": ACTIVATIONS,
        "h9": SCALED,
        "y": FEW_CHANNELS,
    }
    assert [op.name for op, reason in explain_selection(graph) if not reason] == ["h4"]


def test_an_outer_layer_and_what_a_precision_map_or_calibration_never_saw_say_so() -> None:
    names = ("x", "a", "b", "y")
    nodes = tuple(Node("Conv", (p, "w"), (q,)) for p, q in zip(names[:-1], names[1:], strict=True))
    value = Value("x", F32, (BATCH, 16, 4, 4))
    graph = Graph("three", (value,), (Value("y", F32, value.shape),), nodes, {"w": np.ones((16, 16, 1, 1), np.float32)})
    assert [reason for _, reason in explain_selection(graph)] == [OUTER, "", OUTER]
    assert [
        operation.reason for operation in operation_coverage(graph, "int8", count_coverage(graph, [])).operations
    ] == [
        OUTER,
        MAPPED,
        OUTER,
    ]
    for tensor in ("a", "b"):
        made = operation_coverage(graph, "int8", count_coverage(graph, []), unseen=(tensor,)).operations
        assert [each.reason for each in made] == [OUTER, UNSEEN, OUTER]
