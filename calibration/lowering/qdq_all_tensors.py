"""The form of engines that take no float: every tensor has a QuantizeLinear-DequantizeLinear pair with constant scales.

Inputs and outputs, norms, attention and constants have pairs too. What only moves numbers keeps the code of its source,
so that an engine moves integers. Codes of 16 bits stand in onnxruntime's domain: ONNX has them from opset 21 on.

Two operations read a tensor of 16 bits through a second pair, for what QNN 2.7 makes of them without it
(docs/measured/npu.md). It fuses a SiLU t * Sigmoid(t), and reads other bytes of its buffer for some shapes: the scale
of the product's t is wider by AGAIN, else the two pairs would be joined. And it rounds the second factor of a product
of activations to 8 bits, unless that is int16 around zero. Norms lose 10 dB and more with a shift of 16 bits: it is
int32, in steps of the product of the scales of what they read and multiply. A constant that is added shifts the sum by
two codes, unless it has the scale of what it is added to.

Where operations with weights read 8 bits, a second pair makes them. QNN takes such an operation with one scale for its
weight, and no scales of rows: each row's share of the largest scale is a factor of 16 bits behind the operation.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fewstep.calibration.lowering.encoding import (
    Encoding,
    asymmetric_uint16,
    eight_bit_name,
    integer_name,
    rounded_name,
    scale_name,
    symmetric_int16,
    zero_point_name,
)
from fewstep.calibration.lowering.qdq_pairs import emit_operation
from fewstep.calibration.lowering.scheme import Form, Replacement
from fewstep.calibration.lowering.weights import QuantizedWeight, quantize_weight
from fewstep.calibration.ranges.observe import MOVING
from fewstep.calibration.ranges.table import Range, Ranges
from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.index import index
from fewstep.graph.pattern import match
from fewstep.graph.selection import CONTRIB, WeightedOp
from fewstep.graph.types import Types

FLOAT = np.dtype(np.float32)
AGAIN = 1.01
FIXED = {"Sigmoid": (2**-16, 0), "Tanh": (2**-15, 2**15)}  # scale and zero point that QNN takes for u16, and no others
NORMS, SHIFT = ("InstanceNormalization", "LayerNormalization"), 2  # the place of the shift, or bias, among inputs
WEIGHTED = ("Conv", "MatMul", "Gemm")
LEAST_ROW = 1 / 64  # of the largest scale of a weight: the output's 16 bits then leave 10 to every row
SIZES_ONLY = ("Resize", "Pad", "Clip")  # operations whose further inputs are no tensors of the network


def qdq_all_tensors_form() -> Form:
    """The operations on rounded weights; `add_pairs_to_all_tensors` then makes the pairs of activations."""
    return Form(quantize=lambda tensor: (), operation=_emit_operation, encodes_output=lambda op: True)


def _emit_operation(op: WeightedOp, weight: QuantizedWeight) -> Replacement:
    emitted = emit_operation(op, weight, FLOAT)
    *before, node = emitted.nodes
    return replace(emitted, nodes=(*before, replace(node, inputs=(op.x, *node.inputs[1:]))))


def add_pairs_to_all_tensors(graph: Graph, types: Types, codes: Mapping[str, Encoding]) -> Graph:
    """The lowered graph with a pair behind every float tensor; `codes` has the codes of tensors that were counted."""
    writer = _Pairs(graph, types, codes)
    return graph.with_nodes(writer.make_nodes(), writer.constants)


class _Pairs:
    def __init__(self, graph: Graph, types: Types, codes: Mapping[str, Encoding]) -> None:
        self._graph, self._types, self._idx = graph, types, index(graph)
        self._codes = dict(codes)
        self._outputs = {value.name for value in graph.outputs}
        self.constants: dict[str, Array] = {}
        self._rows: dict[str, Array] = {}  # by weight: what the scale of each row is of the largest

    def make_nodes(self) -> tuple[Node, ...]:
        return tuple(node for part in self._node_groups() for node in part)

    def _node_groups(self) -> Iterator[Sequence[Node]]:
        for value in self._graph.inputs:
            if value.dtype == FLOAT:
                yield self._pair(value.name, self._codes[value.name], value.name, rounded_name(value.name))
        for node in self._graph.nodes:
            if node.op == "DequantizeLinear":  # of a weight
                yield (self._weight_node(node),)
                continue
            yield from self._constants(node)
            second = self._second_pair(node)
            if second is not None and scale_name(second[1]) not in self.constants:
                place, name, code = second
                yield self._pair(name, code, self._input_name(node.inputs[place], node, place), name)
            made = [name for name in node.outputs if self._is_float(name)]
            names = {name: f"float({name})" for name in made if name in self._outputs}
            inputs = [self._input_name(name, node, place) for place, name in enumerate(node.inputs)]
            if second is not None:
                inputs[second[0]] = second[1]
            outputs = tuple(names.get(name, name) for name in node.outputs)
            changed = replace(node, inputs=tuple(inputs), outputs=outputs)
            yield tuple(self._scale_rows(changed, node.output)) if self._is_narrow(node) else (changed,)
            for name in made:
                self._codes[name] = self._output_code(name, node)
                result = name if name in names else rounded_name(name)
                yield self._pair(name, self._codes[name], names.get(name, name), result)

    def _is_narrow(self, node: Node) -> bool:
        """True if a node is an operation that reads 8 bits: all that read its weight do, which then has one scale."""
        readers = self._idx.consumers[node.inputs[1]] if node.op in WEIGHTED else ()
        return bool(readers) and all(eight_bit_name(reader.output) in self._codes for reader in readers)

    def _weight_node(self, node: Node) -> Node:
        """The way of a weight out of its integers: in one scale for operations that read 8 bits."""
        if not all(self._is_narrow(reader) for reader in self._idx.consumers[node.output]):
            return node
        values, scale, zero = node.inputs
        scales, axis = self._graph.constants[scale], node.attributes["axis"]
        rows = np.maximum(scales / scales.max(), LEAST_ROW)
        integers = np.moveaxis(self._graph.constants[values], axis, -1) * (scales / scales.max() / rows)
        self._rows[node.output] = rows
        self.constants |= {
            values: np.moveaxis(np.rint(integers).astype(np.int8), -1, axis),
            scale: np.asarray(scales.max()),
            zero: np.asarray(np.int8(0)),
        }
        return replace(node, attributes={})

    def _scale_rows(self, node: Node, name: str) -> Iterator[Node]:
        """An operation that reads 8 bits, and the factors of its rows behind it. `name` is the tensor that it made."""
        rows, code = self._rows[node.inputs[1]], self._codes[name]
        whole, factors = f"whole({name})", f"rows({name})"
        axes = (self._types.rank(name) or 2) - 2 if node.op == "Conv" else 0  # behind the channels
        of_rows = replace(code, scales=np.array([1 / (2**16 - 1)]), zero_point=np.uint16(0))
        inputs = integer_name(factors), scale_name(factors), zero_point_name(factors)
        self.constants |= zip(inputs, _quantize_constant(rows.reshape(-1, *(1,) * axes), of_rows), strict=True)
        yield replace(node, outputs=(whole,))
        yield from self._pair(whole, replace(code, scales=code.scales / rows.min()), whole, rounded_name(whole))
        yield Node("DequantizeLinear", inputs, (rounded_name(factors),), domain=CONTRIB)
        yield Node("Mul", (rounded_name(whole), rounded_name(factors)), node.outputs)

    def _output_code(self, name: str, node: Node) -> Encoding:
        """The code of what a node makes."""
        if node.op in MOVING:
            return self._codes[node.inputs[0]]
        code = self._codes[name]
        if node.op in FIXED and code.zero_point.dtype == np.uint16:
            scale, zero = FIXED[node.op]
            return replace(code, scales=np.array([scale]), zero_point=np.uint16(zero))
        return code

    def _input_name(self, name: str, node: Node, place: int) -> str:
        """The name that a node reads instead of a tensor."""
        if not self._is_data(name, node, place) or name in self._outputs:
            return name
        return rounded_name(_constant_name(node, place) if self._graph.is_constant(name) else name)

    def _is_data(self, name: str, node: Node, place: int) -> bool:
        return self._is_float(name) and not (place and node.op in SIZES_ONLY)

    def _is_float(self, name: str) -> bool:
        """True where it is a float tensor of the prepared graph."""
        value = self._types.values.get(name)
        return value is not None and value.dtype == FLOAT

    def _pair(self, name: str, code: Encoding, source: str, result: str) -> tuple[Node, Node]:
        """The way of a tensor, which `source` holds in float, to its code and back to `result`."""
        scale, zero = scale_name(name), zero_point_name(name)
        self.constants |= {scale: code.scales[0].astype(FLOAT), zero: np.asarray(code.zero_point)}
        return (
            Node("QuantizeLinear", (source, scale, zero), (integer_name(name),), domain=CONTRIB),
            Node("DequantizeLinear", (integer_name(name), scale, zero), (result,), domain=CONTRIB),
        )

    def _constants(self, node: Node) -> Iterator[Sequence[Node]]:
        """The float constants that a node is the first to read, out of their integers."""
        for place, source in enumerate(node.inputs):
            array, name = self._graph.constants.get(source), _constant_name(node, place)
            if array is None or integer_name(name) in self.constants or not self._is_data(source, node, place):
                continue
            inputs = integer_name(name), scale_name(name), zero_point_name(name)
            if node.op == "ConvTranspose" and place == 1 and node.attributes.get("group", 1) == 1:
                weight = quantize_weight(array, 1)
                values: tuple[Array, ...] = weight.values, weight.scales, np.zeros_like(weight.scales, np.int8)
                way = Node("DequantizeLinear", inputs, (rounded_name(name),), {"axis": 1})
            else:
                if place == SHIFT and self._is_narrow(node):  # the factors of rows multiply it too
                    array = array / self._rows[node.inputs[1]]
                values = _quantize_constant(array, self._code_of_constant(array, node, place))
                is_int32 = values[2].dtype == np.int32  # which onnxruntime's own does not take
                way = Node("DequantizeLinear", inputs, (rounded_name(name),), domain="" if is_int32 else CONTRIB)
            self.constants |= zip(inputs, values, strict=True)
            yield (way,)

    def _code_of_constant(self, array: Array, node: Node, place: int) -> Encoding:
        """The code of a constant's own range, or what norms keep their precision with."""
        low, high = min(float(array.min()), 0.0), max(float(array.max()), 0.0)
        end = Range(low, high if high > low else 1.0)
        code = asymmetric_uint16(Ranges(end, (), 1.0, ()), grouped=False, headroom=1.0)
        if node.op == "Add" and not self._graph.is_constant(node.inputs[1 - place]):
            scales = self._codes[node.inputs[1 - place]].scales
            if np.abs(array).max(initial=0.0) < scales[0] * (2**15 - 1):
                return replace(code, scales=scales, zero_point=np.uint16(2**15))
        if node.op in NORMS and place == SHIFT:
            scales = self._codes[node.inputs[0]].scales * self.constants[scale_name(_constant_name(node, 1))]
            if np.abs(array).max(initial=0.0) < scales[0] * 2**31:
                return replace(code, scales=scales, zero_point=np.int32(0))
        return symmetric_int16(code) if node.op == "LayerNormalization" and place == 1 else code

    def _second_pair(self, node: Node) -> tuple[int, str, Encoding] | None:
        """The input that a node reads through a second pair: its place, what the pair makes, and its code."""
        if self._is_narrow(node):
            return 0, eight_bit_name(node.inputs[0]), self._codes[eight_bit_name(node.output)]
        is_product = node.op == "MatMul" and all(self._is_activation(name) for name in node.inputs)
        place = 1 if is_product else self._silu_input(node)
        if place is None:
            return None
        name = node.inputs[place]
        code = self._codes[name]
        if code.zero_point.dtype != np.uint16:
            return None
        if is_product:
            return place, f"signed({name})", symmetric_int16(code)
        return place, f"again({name})", replace(code, scales=code.scales * AGAIN)

    def _silu_input(self, node: Node) -> int | None:
        """The place of t among the inputs of a product t * Sigmoid(t); None if a node is none."""
        found = match(node, "Mul(t, Sigmoid(t))", self._idx)
        return None if found is None else node.inputs.index(found["t"])

    def _is_activation(self, name: str) -> bool:
        return self._is_float(name) and not self._graph.is_constant(name)


def _constant_name(node: Node, place: int) -> str:
    """The name of a constant. The code of what is added follows from what it is added to, so each sum has its own."""
    is_added = node.op == "Add" or node.op in (*NORMS, *WEIGHTED) and place == SHIFT
    return f"shift({node.output})" if is_added else node.inputs[place]


def _quantize_constant(array: Array, code: Encoding) -> tuple[Array, ...]:
    """The integers of a constant, its scale and its zero point."""
    ends = np.iinfo(code.zero_point.dtype)
    integers = np.clip(np.rint(array / code.scales[0]) + int(code.zero_point), ends.min, ends.max)
    return integers.astype(ends.dtype), code.scales[0].astype(FLOAT), np.asarray(code.zero_point)
