"""Integer kernels compared with the real numbers that their codes stand for, operation by operation.

Each operation also runs in float32, on the codes that its kernel read, and is rounded to the code that the kernel
writes.
"""

import numpy as np
import pytest

from fewstep.calibration.lowering.quantize import lower_graph
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets.cpu_arm import CPU_ARM
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.calibration.lowering.targets.cpu_x86_no_vnni import CPU_X86_NO_VNNI
from fewstep.graph.graph import GROUP, Graph, Node, Value
from fewstep.graph.session import open_session
from tests.calibration.lowering.bodies.small_body import EDGES, SELECTED, body, feeds, sqnr, table
from tests.exact_int8 import open_exact
from tests.refusals import refuses


def lower_body(target: Target) -> Graph:
    return lower_graph(body(), table(body(), EDGES), target)[0]


def in_float(node: Node) -> tuple[Node, ...]:
    """Compute an operation with an integer kernel in float32, between the same codes."""
    if node.op == "QLinearConv":
        x, x_scale, x_zero, w, w_scale, w_zero, *code = node.inputs
        product, following, axis = "Conv", Node("QuantizeLinear", ("result", *code), ("expected",)), 0
    else:
        x, w, x_scale, w_scale, x_zero, w_zero, *bias = node.inputs
        product, following, axis = "MatMul", Node("Add" if bias else "Identity", ("result", *bias), ("expected",)), 1
    return (
        Node("DequantizeLinear", (x, x_scale, x_zero), ("x_float",)),
        Node("DequantizeLinear", (w, w_scale, w_zero), ("w_float",), {"axis": axis}),
        Node(product, ("x_float", "w_float"), ("result",), node.attributes),
        following,
    )


@pytest.mark.parametrize("target", [CPU_X86, CPU_X86_NO_VNNI, CPU_ARM], ids=lambda target: target.name)
@pytest.mark.parametrize("group", [0, 2])
def test_every_integer_kernel_computes_what_its_numbers_stand_for(target: Target, group: int) -> None:
    """At most one code of difference, where a sum lies halfway; float32 outputs differ by rounding only."""
    graph = lower_body(target)
    kernels = [node for node in graph.nodes if node.op in ("QLinearConv", "MatMulIntegerToFloat")]
    assert {node.output.removeprefix("int8(").removesuffix(")") for node in kernels} == set(SELECTED)
    read = {name for node in kernels for name in (*node.inputs, node.output) if not graph.is_constant(name)}
    given = feeds(body()) | {GROUP: np.array([group])}
    held = {**given, **open_exact(graph, sorted(read - given.keys()), optimize=True)(given)}
    for node in kernels:
        names = [name for name in node.inputs if name in held]
        ports = [Value(name, held[name].dtype, held[name].shape) for name in (*names, node.output)]
        output = Value("expected", ports[-1].dtype, ports[-1].shape)
        alone = Graph("kernel", tuple(ports[:-1]), (output,), in_float(node), graph.constants)
        expected = open_session(alone)({name: held[name] for name in names})["expected"]
        apart = np.abs(expected.astype(np.float64) - held[node.output])
        if expected.dtype.kind == "f":
            assert apart.max() < 0.01 / 255 * np.ptp(expected)
        else:
            assert apart.max() <= 1 and np.count_nonzero(apart) <= max(8, 1e-3 * apart.size)


@pytest.mark.parametrize("edges", [(), EDGES])
def test_openvino_computes_what_the_pairs_say_tensor_by_tensor(edges: tuple[float, ...]) -> None:
    """From the graph that it is given, with more outputs; all its operations still run in int8."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    from fewstep.calibration.lowering.openvino_kernels import expose_openvino_tensors, integer_operations, open_compiled
    from fewstep.calibration.lowering.targets.openvino import OPENVINO

    graph, ops, _ = lower_graph(body(), table(body(), edges), OPENVINO)
    given = feeds(body()) | ({GROUP: np.array([2])} if edges else {})
    names = [op.name for op in ops]
    found, expected = (inner(graph, names)(given) for inner in (open_compiled, open_session))
    assert all(sqnr(expected[name], found[name]) > 35 for name in names)
    products = [node.output for node in graph.nodes if node.op in ("Conv", "MatMul")]
    assert len(integer_operations(expose_openvino_tensors(graph, products))) >= len(ops)


def test_an_openvino_that_fails_is_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    from fewstep.calibration.lowering.openvino_kernels import open_compiled
    from fewstep.runtime.backends.openvino import OpenVino

    def failing(given: object) -> None:
        raise RuntimeError("Exception from src/cpu.cpp:1:\nno memory\n")

    monkeypatch.setattr(OpenVino, "compile", lambda *asked: failing)
    with refuses(("OpenVINO", "'body'", "no memory")):
        open_compiled(body(), ["h2"])(feeds(body()))
