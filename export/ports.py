"""Give the graph of an .onnx file the inputs and outputs of fewstep's graphs: x, time, conditions and output, all in
float32.

Tensors are renamed if that suffices. If an input or output of the file has another type or shape than fewstep's, a node
between the two converts it. A single time for all samples becomes one time per sample.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import helper

from fewstep.export.spec import Spec
from fewstep.graph.additions import NewNodes
from fewstep.graph.extents import free_ports
from fewstep.graph.graph import BATCH, GROUP, OUTPUT, TIME, TO, Graph, Node, Value, X, rename_inputs
from fewstep.graph.types import infer_types
from fewstep.plans.errors import UserError
from fewstep.runtime.kinds.positions import time_shape
from fewstep.runtime.kinds.sizes import free_shape, free_x_shape, input_shape

LOG = logging.getLogger("fewstep")
FLOAT32 = np.dtype(np.float32)
NAME_THEM = "name x, time, output and the conditions in the spec as the file does"
ELEMENTWISE = ("Cast", "Identity", "Mul", "Div", "Add", "Sub", "Neg")  # operations on a time before its embedding


def standardize_ports(graph: Graph, spec: Spec, file: str) -> Graph:
    """Return the graph with its inputs and outputs renamed to fewstep's names. Raises UserError, which names the input
    or output of `file`, if the spec does not describe it."""
    if spec.other_outputs:
        what = "carries tensors" if spec.carried else "has named outputs"
        raise UserError(f"spec {spec.name!r} {what} in an .onnx file", "export the torch module with FILE.py:FUNCTION")
    own = {value.name: value for value in (*graph.inputs, *graph.outputs)}
    ports = {spec.x: Value(X, np.dtype(spec.space.dtype), (BATCH, *input_shape(spec, free_x_shape(spec))))}
    ports |= {name: Value(port, FLOAT32, (BATCH, *time_shape(spec))) for port, name in spec.times.items()}
    ports |= {
        c.input: Value(c.input, np.dtype(c.dtype), (BATCH, *free_shape(c.shape, c.follows))) for c in spec.conditions
    }
    _check_names(graph, spec, file)
    there = {
        name: port for name, port in ports.items() if name in own
    }  # all ports, except the time if a token denoiser does not read it
    for name, port in there.items():
        _check_port(own[name], port, file)
    output = _infer_open_sizes(own[spec.output], graph)
    names = NewNodes(graph)
    inner = {name: names.name(f"{name}_given") for name in (*there, spec.output)}
    fixed = (X, TIME, TO, GROUP, OUTPUT, *(port.name for port in ports.values()))
    ours = {name: names.name(f"{name}_inner") for name in fixed}
    graph = rename(graph, ours | inner)  # the file may use fewstep's names for other tensors
    new, first = NewNodes(graph), list[Node]()
    for name, port in there.items():
        source, is_time = port.name, name in spec.times.values()
        if is_time and not own[name].shape:
            freed = vectorize_time(graph, inner[name])
            if freed is None:  # use the first sample's time for all; such a time cannot move to the prologue
                zero = new.constant("first_sample", np.array(0, np.int64))
                first.append(Node("Gather", (port.name, zero), (new.name("time_of_all"),), {"axis": 0}))
                source = first[-1].output
            graph = freed or graph
        if is_time and own[name].dtype.kind in "iu":
            LOG.warning("%s takes integer times: fractional times are rounded", file)
            first.append(Node("Round", (source,), (new.name("time_whole"),)))
            source = first[-1].output
        if own[name].dtype != port.dtype:
            first.append(_cast(source, new.name(f"{port.name}_cast"), own[name].dtype))
            source = first[-1].output
        graph = graph.with_nodes(rename_inputs(node, {inner[name]: source}) for node in graph.nodes)
    result, last = _select_prediction(output, inner[spec.output], spec, file, new)
    nodes = [*first, *graph.nodes, *last]
    outputs = (Value(result, FLOAT32, (BATCH, *spec.output_shape)),)
    whole = Graph(spec.name, tuple(ports.values()), outputs, tuple(nodes), {**graph.constants, **new.constants})
    return free_ports(rename(whole, {result: OUTPUT}), spec)


def vectorize_time(graph: Graph, time: str) -> Graph | None:
    """Return the graph with the scalar `time` as a vector [batch]; None if the graph needs a scalar.

        Unsqueeze(t, 0) -> Cast -> Expand(.., batch)      ==>      t [batch] -> Cast

    Most networks convert a scalar time to a vector first, and expand it to the batch: both steps are removed. A network
    for one time may still mix the samples' times later, so the caller compares the results.
    """
    numbers = {name for name, array in graph.constants.items() if array.shape == ()}
    ones = {name for name, array in graph.constants.items() if array.shape == (1,)}
    scalars, vectors = {time}, set[str]()  # tensors computed from the time, of shape (), and of shape [1] or [batch]
    dropped: dict[str, Node] = {}
    for node in graph.nodes:
        read = {*node.inputs}
        if read.isdisjoint(scalars | vectors):
            continue
        is_elementwise = node.op in ELEMENTWISE and not node.domain
        if is_elementwise and read <= scalars | numbers:
            scalars.add(node.output)
        elif is_elementwise and read <= scalars | vectors | numbers | ones:
            vectors.add(node.output)
        elif _makes_vector(node, graph) if node.inputs[0] in scalars else _expands(node) and node.inputs[0] in vectors:
            vectors.add(node.output)
            dropped[node.output] = Node("Identity", node.inputs[:1], node.outputs)
        elif not read.isdisjoint(scalars):
            return None
    return graph.with_nodes(dropped.get(node.output, node) for node in graph.nodes)


def _makes_vector(node: Node, graph: Graph) -> bool:
    """Return True if a node reshapes a scalar t to [t]."""
    shape = graph.constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
    if node.domain or shape is None:
        return False
    return (node.op, shape.tolist()) in (("Unsqueeze", [0]), ("Unsqueeze", [-1]), ("Reshape", [1]), ("Reshape", [-1]))


def _expands(node: Node) -> bool:
    return node.op == "Expand" and not node.domain


def rename(graph: Graph, names: Mapping[str, str]) -> Graph:
    """Return the graph with tensors renamed. New names must be unused; old ones need not exist."""

    def value(value: Value) -> Value:
        return replace(value, name=names.get(value.name, value.name))

    nodes = (
        replace(rename_inputs(node, names), outputs=tuple(names.get(name, name) for name in node.outputs))
        for node in graph.nodes
    )
    return Graph(
        graph.name,
        tuple(map(value, graph.inputs)),
        tuple(map(value, graph.outputs)),
        tuple(nodes),
        {names.get(name, name): array for name, array in graph.constants.items()},
    )


def _check_names(graph: Graph, spec: Spec, file: str) -> None:
    """Raise UserError unless the spec names every input of the file, and one of its outputs."""
    inputs, outputs = ([value.name for value in values] for values in (graph.inputs, graph.outputs))
    roles = {spec.x: "x", **{name: "time" if port == TIME else "to" for port, name in spec.times.items()}}
    roles |= {c.input: f"condition {c.name!r}" for c in spec.conditions}
    for name, role in roles.items():
        if name not in inputs and (role != "time" or spec.space.needs_time):
            raise UserError(f"{file} has no input {name!r} for {role}, only {_list_values(graph.inputs)}", NAME_THEM)
    for value in graph.inputs:
        if value.name not in roles:
            raise UserError(
                f"the spec does not describe the input {_list_values([value])} of {file}", "add a condition for it"
            )
    if spec.output not in outputs:
        raise UserError(f"{file} has no output {spec.output!r}, only {_list_values(graph.outputs)}", NAME_THEM)


def _check_port(own: Value, port: Value, file: str) -> None:
    """Raise UserError unless the known sizes agree and the dtypes are equal or both floating-point, which a Cast
    converts. A time may have any floating-point or integer dtype."""
    if port.name in (TIME, TO):
        one = len(port.shape) == 1
        if own.dtype.kind not in "fiu" or not (len(own.shape) < 2 if one else _shapes_agree(own.shape, port.shape[1:])):
            count = "one number" if one else f"{port.shape[1]} numbers"
            raise UserError(f"{file} takes the time as {_list_values([own])}", f"let it take {count} per sample")
        return
    if not _shapes_agree(own.shape, port.shape[1:]):
        raise UserError(
            f"{file} takes {_list_values([own])} where the spec says shape {list(port.shape[1:])}",
            "give the shape of one sample, without the batch",
        )
    if own.dtype != port.dtype and not own.dtype.kind == port.dtype.kind == "f":
        raise UserError(
            f"{file} takes {_list_values([own])} where the spec says {port.dtype}",
            f"give dtype {own.dtype} in the spec",
        )


def _infer_open_sizes(output: Value, graph: Graph) -> Value:
    """Return an output of a graph with its unknown sizes filled in, as far as shape inference finds them."""
    inferred = infer_types(replace(graph, outputs=())).shape(output.name)
    if inferred is None or len(inferred) != len(output.shape):
        return output
    pairs = zip(output.shape, inferred, strict=True)
    return replace(output, shape=tuple(size if isinstance(size, int) else stated for stated, size in pairs))


def _shapes_agree(shape: Sequence[int | str], sample: Sequence[int | str]) -> bool:
    """Return True if a shape is a batch of samples, as far as it is known."""
    pairs = zip(shape[1:], sample, strict=False)
    return len(shape) == 1 + len(sample) and all(isinstance(a, str) or a == b for a, b in pairs)


def _select_prediction(output: Value, name: str, spec: Spec, file: str, new: NewNodes) -> tuple[str, list[Node]]:
    """Return the tensor with the prediction, and the nodes that compute it from the file's output.

    A network that also learns the variance (Nichol & Dhariwal 2021) returns twice the channels, the prediction first.
    """
    nodes: list[Node] = []
    wanted, channels = spec.output_shape[0], output.shape[1] if len(output.shape) > 1 else None
    if channels == 2 * wanted:
        LOG.warning("%s returns %d channels: the second half, a learned variance, is left out", file, channels)
        ends = [new.constant(f"half_{at}", np.array([at], np.int64)) for at in (0, wanted, 1)]
        nodes.append(Node("Slice", (name, *ends), (new.name("prediction"),)))
        name = nodes[-1].output
    elif not _shapes_agree(output.shape, spec.output_shape):
        raise UserError(f"{file} returns {_list_values([output])}, not shape {list(spec.output_shape)}", NAME_THEM)
    if output.dtype.kind in "biu":
        raise UserError(f"{file} returns {_list_values([output])}, and a prediction is a float", NAME_THEM)
    if output.dtype != FLOAT32:
        nodes.append(_cast(name, new.name("prediction_cast"), FLOAT32))
        name = nodes[-1].output
    return name, nodes


def _cast(source: str, target: str, dtype: np.dtype[Any]) -> Node:
    return Node("Cast", (source,), (target,), {"to": helper.np_dtype_to_tensor_dtype(dtype)})


def _list_values(values: Iterable[Value]) -> str:
    return ", ".join(f"{value.name} {value.dtype} [{', '.join(map(str, value.shape))}]" for value in values)
