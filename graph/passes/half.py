"""Convert a graph to a 16-bit float type, for targets whose engines are strongly typed.

Opset 20 defines bfloat16 for fewer operations than float16: Conv supports it from opset 22 on. Since the graphs are for
engines, bfloat16 is used wherever float16 is allowed, and the opset stays one that the oldest parsers can read.
onnxruntime's CPU has no such kernels: see `rounding.py`.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from fewstep.graph.created_tensors import result_types, tensor_types, tensors_without_inputs
from fewstep.graph.graph import OPSET, Array, Graph, Node, Value
from fewstep.graph.half_types import largest_number, onnx_type, smallest_number
from fewstep.graph.index import Index, index
from fewstep.graph.squared_sums import inner_tensors, limit_norms, sums_of_squares
from fewstep.graph.types import infer_types

TAKEN = "tensor(float16)"


def to_half(graph: Graph, half: np.dtype[Any]) -> Graph:
    """Compute in a 16-bit float type between float32 inputs and outputs. Inner tensors keep their names.

        f(x, W)      ==>      Cast(f(Cast(x), half(W)))

    A weight beyond the type's range becomes its largest number; infinities stay. A scalar that would become zero, such
    as the epsilon of a norm, becomes the smallest positive number. These stay float32:

    - inputs that an operation accepts only in float32, such as the scales of a Resize
    - sums of squares, up to their root (`sums_of_squares`), which `limit_norms` keeps in the type's range
    - positions and other tensors that the graph creates, up to the operation that combines them with data
      (`tensors_without_inputs`)
    - the output of an operation whose attributes or definition require float32. A Cast to 16 bits follows it.
    """
    graph = limit_norms(graph, half)
    exact = sums_of_squares(graph)
    made = {name for node in graph.nodes for name in node.outputs}
    ports = [v for v in (*graph.inputs, *graph.optional, *graph.outputs) if v.dtype == np.float32]
    names = {v.name: _half_of(v.name, half) for v in ports}
    conversion = _conversion(graph, half, exact, names)
    nodes = [make_cast(v.name, names[v.name], onnx_type(half)) for v in ports if v.name not in made]
    for node in graph.nodes:
        nodes += conversion.convert(node)
    nodes.extend(make_cast(names[v.name], v.name, TensorProto.FLOAT) for v in graph.outputs if v.name in names)
    return graph.with_nodes(nodes, conversion.constants)


@dataclass(frozen=True)
class _Conversion:
    """Converts one graph node by node, and adds to `constants` and `types`."""

    graph: Graph
    half: np.dtype[Any]
    names: Mapping[str, str]  # 16-bit names of float32 ports
    exact: frozenset[str]  # sums of squares
    inner: frozenset[str]  # those of `exact` that no other operation reads
    created: frozenset[str]
    shared: frozenset[str]  # those of `created` that are also read in 16 bits
    is_saturated: bool  # whether created tensors are clipped to the type's range before rounding
    types: dict[str, int | None]  # types of the converted graph's tensors
    constants: dict[str, Array] = field(default_factory=dict)

    def convert(self, node: Node) -> list[Node]:
        """Return the nodes that replace one node in the 16-bit graph."""
        if node.outputs[0] in self.exact:
            floats = {*self.graph.constants, *self.inner, *(self.created - self.shared)}
            nodes = _wrap_in_float32(node, floats, self.names, self.half)
        else:
            nodes = self._convert(node)
        for each in nodes:
            self.types.update(zip(each.outputs, result_types(each, self.types), strict=True))
        return nodes

    def _convert(self, node: Node) -> list[Node]:
        is_created = not self.created.isdisjoint(node.outputs)
        casts: dict[str, Node] = {}
        names = list(node.inputs)
        for position, name in enumerate(names):
            if is_created or not takes_half(node, position):
                names[position] = self._in_float32(name, node, casts)
            elif name in self.names:
                names[position] = self.names[name]
            elif name in self.graph.constants and self.graph.constants[name].dtype == np.float32:
                names[position] = _half_of(name, self.half)
                self.constants[names[position]] = round_weight(self.graph.constants[name], self.half)
                self.types[names[position]] = onnx_type(self.half)
        attributes = node.attributes if is_created else _attributes(node, self.half)
        converted = replace(node, inputs=tuple(names), attributes=attributes)
        results = [self.names.get(name, name) for name in node.outputs]
        kept = dict(zip(results, result_types(converted, self.types | self._types(casts)), strict=True))
        wide = {
            name: _float32_of(name)
            for name, made in kept.items()
            if name and made == TensorProto.FLOAT and (name not in self.created or name in self.shared)
        }
        outputs = tuple(wide.get(name, name) for name in results)
        ends = [each for name, source in wide.items() for each in self._cast(source, name)]
        return [*casts.values(), replace(converted, outputs=outputs), *ends]

    def _types(self, casts: Mapping[str, Node]) -> dict[str, int | None]:
        return {node.output: TensorProto.FLOAT for node in casts.values()}

    def _in_float32(self, name: str, node: Node, casts: dict[str, Node]) -> str:
        """Return the name of a node's input in float32. If that tensor does not exist yet, a Cast is added to `casts`.
        Inputs of other types are returned unchanged."""
        if name in self.created:
            return _float32_of(name) if name in self.shared else name
        source = self.names.get(name, name)
        if self.types.get(source) != onnx_type(self.half):
            return name
        wide = f"{_float32_of(name)} for {node.outputs[0]}"
        casts[wide] = make_cast(source, wide, TensorProto.FLOAT)
        return wide

    def _cast(self, source: str, result: str) -> list[Node]:
        """Return the nodes that round a float32 tensor."""
        if not self.is_saturated:
            return [make_cast(source, result, onnx_type(self.half))]
        clipped, ends = f"clip({result})", ("least()", "largest()")
        largest = np.float32(largest_number(self.half))
        self.types.update(dict.fromkeys(ends, TensorProto.FLOAT))
        self.constants.update(zip(ends, (np.asarray(-largest), np.asarray(largest)), strict=True))
        clip = Node("Clip", (source, *ends), (clipped,), name=clipped)
        return [clip, make_cast(clipped, result, onnx_type(self.half))]


def _conversion(graph: Graph, half: np.dtype[Any], exact: frozenset[str], names: Mapping[str, str]) -> _Conversion:
    created = tensors_without_inputs(graph) - exact
    shared = {
        name
        for node in graph.nodes
        if created.isdisjoint(node.outputs) and node.outputs[0] not in exact
        for position, name in enumerate(node.inputs)
        if name in created and takes_half(node, position)
    }
    types = tensor_types(graph) | dict.fromkeys(names.values(), onnx_type(half))
    return _Conversion(
        graph,
        half,
        names,
        exact,
        inner_tensors(graph, exact),
        created,
        frozenset(shared),
        _saturates(graph, created, half),
        types,
    )


def _saturates(graph: Graph, created: frozenset[str], half: np.dtype[Any]) -> bool:
    """Return True if a created tensor is computed from a number beyond the type's range, such as the lowest float32 in
    a mask. Infinities must stay: with all scores -inf, no key is left."""
    read = {name for node in graph.nodes if not created.isdisjoint(node.outputs) for name in node.inputs}
    arrays = [array for name in read if (array := graph.constants.get(name)) is not None and array.dtype == np.float32]
    return not any(np.isinf(array).any() for array in arrays) and any(
        (np.abs(array) > largest_number(half)).any() for array in arrays
    )


def float32_tensors(graph: Graph) -> Iterator[Value]:
    """Yield the inner tensors that a graph of `to_half` computes in float32 although no operation requires it, by
    ONNX's type inference."""
    sums, idx = sums_of_squares(graph), index(graph)
    edges = {value.name for value in (*graph.inputs, *graph.outputs)} | sums | tensors_without_inputs(graph)
    edges |= {name for name, readers in idx.consumers.items() if all(reader.outputs[0] in sums for reader in readers)}
    types = infer_types(graph)
    for name in (output for node in graph.nodes for output in node.outputs):
        value = types.values.get(name)
        if value is not None and value.dtype == np.float32 and name not in edges and not _needs_float32(name, idx):
            yield value


def _needs_float32(name: str, idx: Index) -> bool:
    """Return True if each reader supports only float32, or is the Cast after an operation that returns only float32."""
    readers = idx.consumers.get(name, ())
    places = [(reader, place) for reader in readers for place, read in enumerate(reader.inputs) if read == name]
    return bool(readers) and all(each.op == "Cast" or not takes_half(each, place) for each, place in places)


def round_weight(value: Array, half: np.dtype[Any]) -> Array:
    """Round a weight to a 16-bit float type, by the rules of `to_half`."""
    clipped = np.clip(value, -largest_number(half), largest_number(half))
    number: Array = np.where(np.isinf(value), value, clipped).astype(half)  # keep the -inf of a mask
    if value.size == 1:
        least = np.copysign(np.float32(smallest_number(half)), value)
        number = np.where((number == 0) & (value != 0), least.astype(half), number)
    return number


def _half_of(name: str, half: np.dtype[Any]) -> str:
    return f"{half.name}({name})"


def _float32_of(name: str) -> str:
    return f"float32({name})"


def _wrap_in_float32(node: Node, floats: Collection[str], names: Mapping[str, str], half: np.dtype[Any]) -> list[Node]:
    """Return a node of `sums_of_squares` with casts around it. floats: float32 tensors. names: names of graph ports in
    16 bits."""
    (result,) = node.outputs
    wide = {name: f"float32({name}) for {result}" for name in node.inputs if name and name not in floats}
    before = [make_cast(names.get(name, name), each, TensorProto.FLOAT) for name, each in wide.items()]
    made = result if result in floats else f"sum({result})"
    after = [] if result in floats else [make_cast(made, names.get(result, result), onnx_type(half))]
    return [*before, replace(node, inputs=tuple(wide.get(name, name) for name in node.inputs), outputs=(made,)), *after]


def make_cast(name: str, result: str, to: int) -> Node:
    """Return a Cast of a tensor to the ONNX type `to`; `result` is the name of its output."""
    return Node("Cast", (name,), (result,), {"to": to}, name=f"cast({result})")


def _attributes(node: Node, half: np.dtype[Any]) -> dict[str, object]:
    """Return the attributes of a node. A Cast to float32 becomes a Cast to the 16-bit type, and a ConstantOfShape
    becomes one of that type."""
    attributes = dict(node.attributes)
    if node.op == "Cast" and attributes.get("to") == TensorProto.FLOAT:
        attributes["to"] = onnx_type(half)
    if node.op == "ConstantOfShape":
        given = attributes.get("value")
        number = np.zeros(1, np.float32) if given is None else numpy_helper.to_array(given)
        if number.dtype == np.float32:
            attributes["value"] = numpy_helper.from_array(round_weight(number, half))
    return attributes


def takes_half(node: Node, position: int) -> bool:
    """Return True if the operation's definition allows float16, and so bfloat16, at an input position.

    For operations that only onnxruntime defines, True is returned, since their weights mostly have the type of x.
    """
    try:
        schema = onnx.defs.get_schema(node.op, OPSET, node.domain)
    except onnx.defs.SchemaError:
        return True
    formal = schema.inputs[min(position, len(schema.inputs) - 1)]
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    return TAKEN in allowed.get(formal.type_str, (formal.type_str,))  # `formal.types` cannot be read in onnx 1.20
