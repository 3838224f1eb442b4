"""Read and write the protobuf fields of ONNX files one by one, without the library onnx.

onnx.proto gives the numbers of fields.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from fewstep.runtime.bundle.protobuf import BYTES, VARINT, Value, fields, last_values, varint

MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_CONSTANT = 1, 5
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP, NODE_ATTRIBUTE, NODE_DOMAIN = 1, 2, 3, 4, 5, 7
ATTRIBUTE_NAME, ATTRIBUTE_INT, ATTRIBUTE_TYPE = 1, 3, 20
TENSOR_DIMENSION, TENSOR_TYPE, TENSOR_INTS, TENSOR_NAME, TENSOR_RAW = 1, 2, 7, 8, 9
INT_ATTRIBUTE = 2
INT64 = 7


@dataclass(frozen=True)
class NodeMessage:
    """One operation as far as its form is asked for: integer attributes only."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, int]

    @property
    def label(self) -> str:
        return self.name or next(iter(self.outputs), "")


def field(number: int, value: Value | str, kind: int | None = None) -> bytes:
    """A field as bytes; `kind` follows from the value by default."""
    if isinstance(value, int):
        return _encoded(number << 3 | VARINT) + _encoded(value)
    content = value.encode() if isinstance(value, str) else value
    kind = BYTES if kind is None else kind
    size = _encoded(len(content)) if kind == BYTES else b""
    return _encoded(number << 3 | kind) + size + content


def inside(message: bytes, number: int) -> Iterator[bytes]:
    """The values of the fields of a number that are bytes, text or messages."""
    for each, _, value in fields(message):
        if each == number and isinstance(value, bytes):
            yield value


def node(message: bytes) -> NodeMessage | None:
    """A NodeProto; None for one of another domain than ONNX's own."""
    if any(domain not in (b"", b"ai.onnx") for domain in inside(message, NODE_DOMAIN)):
        return None
    texts = {
        number: tuple(value.decode(errors="replace") for value in inside(message, number))
        for number in (NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP)
    }
    attributes: dict[str, int] = {}
    for attribute in inside(message, NODE_ATTRIBUTE):
        held = last_values(attribute)
        called, value = held.get(ATTRIBUTE_NAME), held.get(ATTRIBUTE_INT)
        if isinstance(called, bytes) and isinstance(value, int):
            attributes[called.decode(errors="replace")] = value
    name, op = (next(iter(texts[number]), "") for number in (NODE_NAME, NODE_OP))
    return NodeMessage(op, name, texts[NODE_INPUT], texts[NODE_OUTPUT], attributes)


def scalars(graph: bytes) -> dict[str, int]:
    """The constants of a GraphProto that are one int64 number each, by name."""
    constants = {}
    for tensor in inside(graph, GRAPH_CONSTANT):
        if len(tensor) > 4096:  # no single number, whatever it is called
            continue
        held = last_values(tensor)
        name, raw, ints = held.get(TENSOR_NAME), held.get(TENSOR_RAW), held.get(TENSOR_INTS)
        if held.get(TENSOR_TYPE) != INT64 or not isinstance(name, bytes):
            continue
        if isinstance(raw, bytes) and len(raw) == 8:
            constants[name.decode(errors="replace")] = int.from_bytes(raw, "little", signed=True)
        elif isinstance(ints, bytes) and len(numbers := _packed(ints)) == 1:
            constants[name.decode(errors="replace")] = numbers[0]
    return constants


def int_attribute(name: str, value: int) -> bytes:
    """An AttributeProto."""
    return field(ATTRIBUTE_NAME, name) + field(ATTRIBUTE_INT, value) + field(ATTRIBUTE_TYPE, INT_ATTRIBUTE)


def int_tensor(name: str, value: int) -> bytes:
    """A TensorProto of one int64 number, along one axis."""
    raw = value.to_bytes(8, "little", signed=True)
    return field(TENSOR_DIMENSION, 1) + field(TENSOR_TYPE, INT64) + field(TENSOR_NAME, name) + field(TENSOR_RAW, raw)


def _packed(content: bytes) -> list[int]:
    numbers, place = [], 0
    while place < len(content):
        value, place = varint(content, place, len(content))
        numbers.append(value - (1 << 64) if value >> 63 else value)
    return numbers


def _encoded(value: int) -> bytes:
    parts = bytearray()
    value &= (1 << 64) - 1
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
