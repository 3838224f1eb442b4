"""Find the first layer of a graph whose result in an engine differs from onnxruntime's.

First, one engine is compiled with all float tensors as outputs. If none of them differs, the difference is caused by a
fusion that these outputs prevent. Then engines are compiled with a single tensor as an additional output, which leaves
most fusions unchanged.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from fewstep.calibration.lowering.openvino_kernels import open_compiled
from fewstep.calibration.ranges.observe import expose_tensors
from fewstep.graph.engines.temporary_engines import open_on_cuda, open_on_tensorrt
from fewstep.graph.graph import Array, Graph, Value
from fewstep.graph.session import open_session
from fewstep.graph.types import infer_types
from fewstep.report.engines.differences import DifferentLayer
from fewstep.runtime.backends import Arrays, Backend
from fewstep.runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.backends.openvino_agreement import relative_difference
from fewstep.runtime.backends.tensorrt import TensorRt

Inner = Callable[[Graph, Sequence[str]], Callable[[Arrays], Arrays]]  # opens a graph with inner tensors as outputs


def find_inner_opener(backend: Backend) -> Inner | None:
    """Return the function with which a backend opens a graph with inner tensors as outputs; None if it cannot."""
    if isinstance(backend, OpenVino):
        return lambda graph, tensors: open_compiled(graph, tensors, backend)
    if isinstance(backend, OnnxRuntimeCuda):
        return lambda graph, tensors: open_on_cuda(backend, expose_tensors(graph, tensors))
    if isinstance(backend, TensorRt):
        return lambda graph, tensors: open_on_tensorrt(backend, expose_tensors(graph, tensors))
    return None


def find_first_difference(graph: Graph, inner: Inner, feeds: Arrays, limit: float) -> DifferentLayer | None:
    """Return the first operation, in graph order, whose result differs by more than `limit` of its largest value. None
    if there is none."""
    fixed = _fix_sizes(graph, feeds)
    types = infer_types(fixed).values
    tensors = [name for node in fixed.nodes for name in node.outputs if name in types and types[name].dtype.kind == "f"]
    expected = {**open_session(fixed, tensors)(feeds)}
    fixed = _add_shapes(fixed, expected)
    values = inner(fixed, tensors)(feeds)
    for name in tensors:
        if (difference := _difference(expected, values, name)) > limit:
            return _make_layer(fixed, name, difference, alone=False)
    ask = partial(_difference_alone, fixed, inner, feeds, expected)
    if not any(ask(value.name) > limit for value in fixed.outputs if value.name in tensors):
        return None
    first = _bisect_tensors(fixed, tensors, lambda name: ask(name) > limit)
    return _make_layer(fixed, first, ask(first), alone=True)


def _bisect_tensors(graph: Graph, tensors: Sequence[str], is_wrong: Callable[[str], bool]) -> str:
    """Find by bisection the tensor at which a difference begins.

    All tensors computed from that tensor differ too. Each test keeps either the tested tensor and those from which it
    is computed, or all others.
    """
    before: dict[str, frozenset[str]] = {}  # tensor -> itself and all tensors upstream of it
    for node in graph.nodes:
        sources = frozenset().union(*(before.get(name, ()) for name in node.inputs))
        before |= {name: sources | ({name} & {*tensors}) for name in node.outputs}
    left = frozenset().union(*(before[value.name] for value in graph.outputs))
    while len(left) > 1:
        middle = min(sorted(left), key=lambda name: abs(2 * len(before[name] & left) - len(left)))
        left = left & before[middle] if is_wrong(middle) else left - before[middle]
    return next(iter(left))


def _fix_sizes(graph: Graph, feeds: Mapping[str, Array]) -> Graph:
    """Return the graph with the sizes of these inputs fixed, so that an engine knows the shape of every inner
    tensor."""
    return replace(graph, inputs=tuple(replace(v, shape=feeds[v.name].shape) for v in graph.inputs), described=())


def _add_shapes(graph: Graph, values: Arrays) -> Graph:
    """Add the shapes of computed tensors to the graph, in case shape inference does not find them."""
    shapes = {name: Value(name, value.dtype, value.shape) for name, value in values.items()}
    outputs = tuple(shapes[value.name] for value in graph.outputs)
    names = {value.name for value in outputs}
    return replace(graph, outputs=outputs, described=tuple(v for name, v in shapes.items() if name not in names))


def _difference_alone(graph: Graph, inner: Inner, feeds: Arrays, expected: Arrays, name: str) -> float:
    """Return the difference between an engine's value and the expected value of one inner tensor. The engine is built
    with only this tensor as an additional output."""
    return _difference(expected, inner(graph, [name])(feeds), name)


def _difference(expected: Arrays, values: Arrays, name: str) -> float:
    return relative_difference({name: np.asarray(expected[name], np.float32)}, {name: np.asarray(values[name])})


def _make_layer(graph: Graph, tensor: str, difference: float, alone: bool) -> DifferentLayer:
    node = next(node for node in graph.nodes if tensor in node.outputs)
    return DifferentLayer(node.op, tensor, difference, alone)
