"""The form for engines without floats: every tensor has a QuantizeLinear-DequantizeLinear pair with constant scales.

Inputs and outputs, norms, attention and constants have pairs too. Nodes that only rearrange a tensor keep the code of
their input, so that an engine moves integers. 16-bit codes use onnxruntime's domain: ONNX has them only from opset 21.

Two operations read a 16-bit tensor through a second pair, because QNN 2.7 miscompiles them without it
(lab/measured/npu.md). QNN fuses a SiLU t * Sigmoid(t), and reads wrong bytes of its buffer for some shapes. So the
scale of the product's t is larger by the factor AGAIN; otherwise the two pairs would be merged. And QNN rounds the
second factor of a product of activations to 8 bits, unless that is int16 around zero. Norms lose 10 dB and more with a
16-bit shift, so it is int32, in steps of the product of the scales of input and weight. A constant that is added shifts
the sum by two codes, unless it has the scale of the other summand.

Where operations with weights read 8 bits, a second pair produces them. QNN requires one scale for the weight of such an
operation, and no per-row scales. So each row's fraction of the largest scale is a 16-bit factor after the operation.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fewstep.calibration.lowering.encoding import (
    Encoding,
    asymmetric_uint16,
    eight_bit_name,
    integer_name,
    name_after_rounding,
    scale_name,
    symmetric_int16,
    zero_point_name,
)
from fewstep.calibration.lowering.qdq_pairs import emit_operation
from fewstep.calibration.lowering.scheme import Form, Replacement
from fewstep.calibration.ranges.observe import MOVING
from fewstep.calibration.ranges.table import Range, Ranges
from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.index import index
from fewstep.graph.pattern import match
from fewstep.graph.selection import CONTRIB, WeightedOp
from fewstep.graph.types import Types
from fewstep.graph.weight_quantization import QuantizedWeight, quantize_weight

FLOAT = np.dtype(np.float32)
AGAIN = 1.01
FIXED = {"Sigmoid": (2**-16, 0), "Tanh": (2**-15, 2**15)}  # the only scale and zero point that QNN takes for u16
NORMS, SHIFT = ("InstanceNormalization", "LayerNormalization"), 2  # index of the shift or bias among the inputs
WEIGHTED = ("Conv", "MatMul", "Gemm")
LEAST_ROW = 1 / 64  # least share of a weight's largest scale: every row then keeps 10 of the output's 16 bits
SIZES_ONLY = ("Resize", "Pad", "Clip")  # operations whose further inputs are not tensors of the network


def qdq_all_tensors_form() -> Form:
    """Return the `Form` that quantizes only weights; `add_pairs_to_all_tensors` then adds the pairs of activations."""
    return Form(quantize=lambda tensor: (), operation=_emit_operation, encodes_output=lambda op: True)


def _emit_operation(op: WeightedOp, weight: QuantizedWeight) -> Replacement:
    emitted = emit_operation(op, weight, FLOAT)
    *before, node = emitted.nodes
    return replace(emitted, nodes=(*before, replace(node, inputs=(op.x, *node.inputs[1:]))))


def add_pairs_to_all_tensors(graph: Graph, types: Types, codes: Mapping[str, Encoding]) -> Graph:
    """Return the int8 graph with a QuantizeLinear-DequantizeLinear pair after every float tensor. `codes` are the
    quantization parameters of the tensors that were observed."""
    writer = _Pairs(graph, types, codes)
    return graph.with_nodes(writer.make_nodes(), writer.constants)


class _Pairs:
    def __init__(self, graph: Graph, types: Types, codes: Mapping[str, Encoding]) -> None:
        self._graph, self._types, self._idx = graph, types, index(graph)
        self._codes = dict(codes)
        self._outputs = {value.name for value in graph.outputs}
        self.constants: dict[str, Array] = {}
        self._rows: dict[str, Array] = {}  # by weight: the scale of each row relative to the largest

    def make_nodes(self) -> tuple[Node, ...]:
        return tuple(node for part in self._node_groups() for node in part)

    def _node_groups(self) -> Iterator[Sequence[Node]]:
        for value in self._graph.inputs:
            if value.dtype == FLOAT:
                yield self._pair(value.name, self._codes[value.name], value.name, name_after_rounding(value.name))
        for node in self._graph.nodes:
            if node.op == "DequantizeLinear":  # dequantizes a weight
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
                result = name if name in names else name_after_rounding(name)
                yield self._pair(name, self._codes[name], names.get(name, name), result)

    def _is_narrow(self, node: Node) -> bool:
        """Return True if a node and all other readers of its weight read 8-bit activations. The weight then has one
        scale."""
        readers = self._idx.consumers[node.inputs[1]] if node.op in WEIGHTED else ()
        return bool(readers) and all(eight_bit_name(reader.output) in self._codes for reader in readers)

    def _weight_node(self, node: Node) -> Node:
        """Return the node that dequantizes a weight, with one scale if its readers read 8 bits."""
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
        """Yield an operation that reads 8-bit values, followed by a Mul by the factors of its rows. `name` is its
        original output."""
        rows, code = self._rows[node.inputs[1]], self._codes[name]
        whole, factors = f"whole({name})", f"rows({name})"
        axes = (self._types.rank(name) or 2) - 2 if node.op == "Conv" else 0  # spatial axes, after the channels
        of_rows = replace(code, scales=np.array([1 / (2**16 - 1)]), zero_point=np.uint16(0))
        inputs = integer_name(factors), scale_name(factors), zero_point_name(factors)
        self.constants |= zip(inputs, _quantize_constant(rows.reshape(-1, *(1,) * axes), of_rows), strict=True)
        yield replace(node, outputs=(whole,))
        yield from self._pair(whole, replace(code, scales=code.scales / rows.min()), whole, name_after_rounding(whole))
        yield Node("DequantizeLinear", inputs, (name_after_rounding(factors),), domain=CONTRIB)
        yield Node("Mul", (name_after_rounding(whole), name_after_rounding(factors)), node.outputs)

    def _output_code(self, name: str, node: Node) -> Encoding:
        """Return the quantization parameters of a node's output."""
        if node.op in MOVING:
            return self._codes[node.inputs[0]]
        code = self._codes[name]
        if node.op in FIXED and code.zero_point.dtype == np.uint16:
            scale, zero = FIXED[node.op]
            return replace(code, scales=np.array([scale]), zero_point=np.uint16(zero))
        return code

    def _input_name(self, name: str, node: Node, place: int) -> str:
        """Return the name of the tensor that a node reads in place of `name`: usually the output of its
        DequantizeLinear."""
        if not self._is_data(name, node, place) or name in self._outputs:
            return name
        return name_after_rounding(_constant_name(node, place) if self._graph.is_constant(name) else name)

    def _is_data(self, name: str, node: Node, place: int) -> bool:
        return self._is_float(name) and not (place and node.op in SIZES_ONLY)

    def _is_float(self, name: str) -> bool:
        """Return whether this is a float tensor of the prepared graph."""
        value = self._types.values.get(name)
        return value is not None and value.dtype == FLOAT

    def _pair(self, name: str, code: Encoding, source: str, result: str) -> tuple[Node, Node]:
        """Return the pair that quantizes a tensor, held in float by `source`, and dequantizes it to `result`."""
        scale, zero = scale_name(name), zero_point_name(name)
        self.constants |= {scale: code.scales[0].astype(FLOAT), zero: np.asarray(code.zero_point)}
        return (
            Node("QuantizeLinear", (source, scale, zero), (integer_name(name),), domain=CONTRIB),
            Node("DequantizeLinear", (integer_name(name), scale, zero), (result,), domain=CONTRIB),
        )

    def _constants(self, node: Node) -> Iterator[Sequence[Node]]:
        """Yield nodes that dequantize the float constants of a node. Constants that were already dequantized for an
        earlier node are left out."""
        for place, source in enumerate(node.inputs):
            array, name = self._graph.constants.get(source), _constant_name(node, place)
            if array is None or integer_name(name) in self.constants or not self._is_data(source, node, place):
                continue
            inputs = integer_name(name), scale_name(name), zero_point_name(name)
            if node.op == "ConvTranspose" and place == 1 and node.attributes.get("group", 1) == 1:
                weight = quantize_weight(array, 1)
                values: tuple[Array, ...] = weight.values, weight.scales, np.zeros_like(weight.scales, np.int8)
                way = Node("DequantizeLinear", inputs, (name_after_rounding(name),), {"axis": 1})
            else:
                if place == SHIFT and self._is_narrow(node):  # the row factors multiply it too
                    array = array / self._rows[node.inputs[1]]
                values = _quantize_constant(array, self._code_of_constant(array, node, place))
                is_int32 = values[2].dtype == np.int32  # not supported in onnxruntime's domain
                way = Node("DequantizeLinear", inputs, (name_after_rounding(name),), domain="" if is_int32 else CONTRIB)
            self.constants |= zip(inputs, values, strict=True)
            yield (way,)

    def _code_of_constant(self, array: Array, node: Node, place: int) -> Encoding:
        """Return the quantization parameters of a constant. They follow from its own range, or from the precision that
        normalizations and sums need."""
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
        """Return the input of a node that needs a second QuantizeLinear-DequantizeLinear pair after the first: the
        index of the input, the name of the second pair's output, and its quantization parameters. None if the node
        needs no second pair."""
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
        """Return the index of t among the inputs of a product t * Sigmoid(t); None for other nodes."""
        found = match(node, "Mul(t, Sigmoid(t))", self._idx)
        return None if found is None else node.inputs.index(found["t"])

    def _is_activation(self, name: str) -> bool:
        return self._is_float(name) and not self._graph.is_constant(name)


def _constant_name(node: Node, place: int) -> str:
    """Return the name of a constant. The code of a constant that is added depends on the other summand, so the name is
    different for each sum."""
    is_added = node.op == "Add" or node.op in (*NORMS, *WEIGHTED) and place == SHIFT
    return f"shift({node.output})" if is_added else node.inputs[place]


def _quantize_constant(array: Array, code: Encoding) -> tuple[Array, ...]:
    """Return the integers of a constant, its scale and its zero point."""
    ends = np.iinfo(code.zero_point.dtype)
    integers = np.clip(np.rint(array / code.scales[0]) + int(code.zero_point), ends.min, ends.max)
    return integers.astype(ends.dtype), code.scales[0].astype(FLOAT), np.asarray(code.zero_point)
