"""Damage, as hypothesis strategies: to the structure of JSON, to the bytes of any file, to ONNX messages."""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import onnx
from hypothesis import strategies as st

Document = Any
Place = tuple[Any, ...]

# Written into JSON as they stand: numbers that no float holds, NaN, and nesting that no stack holds.
LITERALS = (
    "NaN",
    "-Infinity",
    "1e999",
    "-0.0",
    "9" * 40,
    "1" + "0" * 5000,
    "[" * 50_000,
    "[" * 300 + "]" * 300,
    "{",
    "",
)
ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 7, 255, 2**31, 2**53, 2**62, 2**64, -(2**63), 0.5, -0.5, 1e-320, 1e38, 1e308),
    *(
        "",
        "x",
        "y",
        "batch",
        "row",
        "group",
        "condition",
        "int64",
        "float32",
        "flow",
        "edm",
        "cond",
        "denoiser",
        "clip",
    ),
    *(
        "../outside",
        "/etc/hostname",
        "graphs/../../outside",
        "graphs/body.onnx",
        "manifest.json",
        "C:\\x",
        "\\\\host\\x",
    ),
    *("\0", "\ud800", "e\u0301", "\u202e", "\n", "a" * 5000, "%s%n", "{0}", "\x1b[2J"),
    *([], {}, [[]], [0.0], [0.5, 0.1], [1, 1, 1], ["batch"], {"": 0}, {"schema": 1}, {"type": "clip"}),
)


@dataclass(frozen=True)
class Literal:
    """Text that is written to JSON unchanged."""

    text: str


values = st.one_of(
    st.sampled_from(ODD),
    st.sampled_from(LITERALS).map(Literal),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
)
changes = st.lists(
    st.tuples(
        st.sampled_from(("replace", "replace", "replace", "remove", "rename", "repeat", "move", "copy", "again")),
        st.integers(0, 2**16),
        st.integers(0, 2**16),
        values,
    ),
    min_size=1,
    max_size=4,
)


def places(value: Document, place: Place = ()) -> Iterator[Place]:
    """Return the path of every value of a JSON document."""
    if place:
        yield place
    keyed = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in keyed:
        yield from places(child, (*place, key))


def _holder(document: Document, place: Place) -> tuple[Any, Any]:
    for key in place[:-1]:
        document = document[key]
    return document, place[-1]


def damage_json(text: str, drawn: list[tuple[str, int, int, Any]]) -> bytes:
    """Return a document after some changes of its structure."""
    document = json.loads(text)
    literals: list[str] = []
    twice: list[str] = []  # keys that the text will hold a second time
    for change, where, other, value in drawn:
        everywhere = list(places(document))
        if not everywhere:
            break
        holder, key = _holder(document, everywhere[where % len(everywhere)])
        source, source_key = _holder(document, everywhere[other % len(everywhere)])
        if isinstance(value, Literal):
            literals.append(value.text)
            value = f"@literal{len(literals) - 1}@"
        value = deepcopy(value)  # lists and dicts among the drawn values are shared by all examples
        if change == "remove":
            del holder[key]
        elif change == "rename" and isinstance(holder, dict):
            holder[str(value)] = holder.pop(key)
        elif change == "repeat" and isinstance(holder, list):
            holder[key:key] = [holder[key]] * (other % 50)
        elif change == "move":
            mine, theirs = deepcopy(holder[key]), deepcopy(source[source_key])  # copies: nothing gets into itself
            source[source_key], holder[key] = mine, theirs
        elif change == "copy":
            holder[key] = deepcopy(source[source_key])
        elif change == "again" and isinstance(holder, dict):
            twice.append(key)
        else:
            holder[key] = value
    written = json.dumps(document)
    for number, literal in enumerate(literals):
        written = written.replace(f'"@literal{number}@"', literal)
    for key in twice:
        written = written.replace(f"{json.dumps(key)}:", f"{json.dumps(key)}: 1, {json.dumps(key)}:", 1)
    return written.encode(errors="surrogatepass")


cuts = st.lists(
    st.tuples(
        st.sampled_from(("flip", "flip", "cut", "insert", "number", "copy")),
        st.integers(0, 2**20),
        st.integers(0, 2**20),
        st.one_of(st.binary(min_size=1, max_size=9), st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7])),
    ),
    min_size=1,
    max_size=4,
)


def damage_bytes(content: bytes, drawn: list[tuple[str, int, int, bytes]]) -> bytes:
    """Return a file after some changes of its bytes, half of them in the first hundred."""
    made = bytearray(content)
    for change, where, other, value in drawn:
        if not made:
            break
        place = where % (min(len(made), 100) if other % 2 else len(made))
        if change == "flip":
            made[place] ^= value[0] or 1
        elif change == "cut":
            del made[place : place + 1 + other % 64 if other % 3 else None]
        elif change == "insert":
            made[place:place] = value
        elif change == "number":
            made[place : place + len(value)] = value
        else:
            begin = other % len(made)
            made[place : place + 16] = made[begin : begin + 16]
    return bytes(made)


SIZES = (-1, 0, 1, 2, 5, 2**31 - 1, 2**40, 2**62, -(2**63))
NAMES = ("", "x", "row", "v", "half", "no such tensor", "../outside", "/etc/hostname", "graphs/int8.onnx", "\0")
OPS = (
    "",
    "Add",
    "Conv",
    "Reshape",
    "Gather",
    "If",
    "Loop",
    "Constant",
    "QLinearConv",
    "ConstantOfShape",
    "Expand",
    "Tile",
)

messages = st.lists(
    st.tuples(st.integers(0, 13), st.integers(0, 2**16), st.sampled_from(SIZES), st.sampled_from(NAMES)),
    min_size=1,
    max_size=3,
)


def damage_graph(content: bytes, drawn: list[tuple[int, int, int, str]]) -> bytes:
    """Return an ONNX graph after some changes of its nodes, tensors, types and references."""
    model = onnx.ModelProto.FromString(content)
    for change, where, size, name in drawn:
        _damage(model, change, where, size, name)
    return model.SerializeToString()


def _damage(model: onnx.ModelProto, change: int, where: int, size: int, name: str) -> None:
    """Change the weight, node or port at a place, if there is one."""
    graph = model.graph
    tensor, node, port = (
        each[where % len(each)] if len(each) else None
        for each in (graph.initializer, graph.node, [*graph.input, *graph.output])
    )
    if change == 13:
        model.opset_import.add(domain="" if where % 2 else "com.microsoft", version=size)
    elif change < 5 and tensor is not None:
        _damage_tensor(tensor, change, size, name)
    elif change < 11 and node is not None:
        _damage_node(graph, node, change, where, size, name)
    elif port is not None and change == 11:
        port.type.tensor_type.shape.dim.add(dim_value=size)
    elif port is not None and change == 12:
        port.type.tensor_type.elem_type = abs(size) % 24


def _damage_tensor(tensor: Any, change: int, size: int, name: str) -> None:
    if change == 0:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
        for key, value in {"location": name, "offset": str(size), "length": str(size)}.items():
            tensor.external_data.add(key=key, value=value)
    elif change == 1:
        tensor.dims.append(size)
    elif change == 2:
        tensor.data_type = abs(size) % 24
    elif change == 3:
        tensor.raw_data = tensor.raw_data[: abs(size) % 8]
    else:
        tensor.name = name.replace("\0", "0")


def _damage_node(graph: Any, node: Any, change: int, where: int, size: int, name: str) -> None:
    if change in (5, 6):
        names = node.input if change == 5 else node.output
        if names:
            names[where % len(names)] = name
    elif change == 7:
        node.op_type = OPS[where % len(OPS)]
    elif change == 8:
        node.attribute.add(name=name or "axis", i=size, type=onnx.AttributeProto.INT)
    elif change == 9:
        del graph.node[where % len(graph.node)]
    else:
        graph.node.append(node)
