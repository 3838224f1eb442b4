"""ONNX files: written as opset 20, IR 10, with large weights in a file beside the graph; read without trust.

A bundle may come from anywhere, so reading checks what it uses: the file parses, external weights lie inside the
bundle's folder and inside their file, and there is no control flow or other opset that a pass could silently misread.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import helper, inliner, numpy_helper

from fewstep.graph.additions import numbered
from fewstep.graph.graph import BATCH, Array, Graph, Node, Value
from fewstep.graph.index import in_topological_order
from fewstep.runtime.errors import UserError

if TYPE_CHECKING:
    from fewstep.graph.commit import Writer

OPSET = 20
IR_VERSION = 10
EXTERNAL_ABOVE = 256 * 2**20  # bytes of weights: more than this go to a file of their own (protobuf stops at 2 GiB)
INLINE_BELOW = 4096  # bytes: smaller tensors stay in the graph, where engines can fold them
WRITE_AGAIN = "copy or write the bundle again"
PAGE = 4096  # bytes: larger ones start on a page, so that an engine can map the file instead of copying it


@dataclass(frozen=True)
class External:
    """Where the weights of a graph lie: a file name beside the graph, and (offset, length) in bytes of each tensor."""

    location: str
    layout: Mapping[str, tuple[int, int]]


# Writing


def to_model(graph: Graph, external: External | None = None, also: Iterable[str] = ()) -> onnx.ModelProto:
    """The ONNX form of a graph; tensors that `external` lists are referred to instead of included.

    `also` names inner tensors to return too. They carry no type, which onnxruntime infers.
    """
    layout = external.layout if external else {}
    initializers = [
        _reference(name, array, external) if external and name in layout else _inline(name, array)
        for name, array in graph.constants.items()
    ]
    proto = helper.make_graph(
        [_node_proto(node, name) for node, name in zip(graph.nodes, _node_names(graph), strict=True)],
        graph.name,
        [_value_info(value) for value in graph.inputs],
        [*map(_value_info, graph.outputs), *(onnx.ValueInfoProto(name=name) for name in also)],
        initializers,
    )
    domains = sorted({node.domain for node in graph.nodes if node.domain})
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(proto, opset_imports=opsets, ir_version=IR_VERSION, producer_name="fewstep")


def save(graph: Graph, path: Path, external_above: int = EXTERNAL_ABOVE, also: Iterable[str] = ()) -> tuple[Path, ...]:
    """Write a graph, and its weights to `<path>.data` if they exceed the limit; returns the files written."""
    external = None
    if _weight_bytes(graph) > external_above:
        data = path.with_name(path.name + ".data")
        external = External(data.name, write_weights(graph, data))
    path.write_bytes(to_model(graph, external, also).SerializeToString(deterministic=True))
    return (path,) if external is None else (path, path.with_name(external.location))


def store(
    writer: "Writer", graph: Graph, name: str, external_above: int = EXTERNAL_ABOVE
) -> tuple[str, tuple[str, ...]]:
    """Add a graph to a bundle under a content-hashed name; returns its path and those of its weight files.

    Graphs with the same large constants in the same order share their weight file: its name is that of its content.
    """
    external: External | None = None
    data: tuple[str, ...] = ()
    if _weight_bytes(graph) > external_above:
        draft = writer.scratch("weights.data")
        layout = write_weights(graph, draft)
        data = (writer.add(draft, folder="graphs", name="weights", suffix=".data"),)
        external = External(PurePosixPath(data[0]).name, layout)
    model = to_model(graph, external).SerializeToString(deterministic=True)
    return writer.add(model, folder="graphs", name=name, suffix=".onnx"), data


def write_weights(graph: Graph, path: Path) -> dict[str, tuple[int, int]]:
    """Write the large constants of a graph one after the other, each at a page boundary; returns where each lies."""
    layout = {}
    with path.open("wb") as file:
        for name, array in graph.constants.items():
            if array.nbytes < INLINE_BELOW:
                continue
            file.write(b"\0" * (-file.tell() % PAGE))
            layout[name] = (file.tell(), array.nbytes)
            file.write(numpy_helper.from_array(np.asarray(array)).raw_data)
    return layout


def _weight_bytes(graph: Graph) -> int:
    return sum(array.nbytes for array in graph.constants.values())


def _inline(name: str, array: Array) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def _reference(name: str, array: Array, external: External) -> onnx.TensorProto:
    offset, length = external.layout[name]
    tensor = onnx.TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": external.location, "offset": str(offset), "length": str(length)}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def _node_proto(node: Node, name: str) -> onnx.NodeProto:
    return helper.make_node(node.op, node.inputs, node.outputs, name=name, domain=node.domain, **node.attributes)


def _node_names(graph: Graph) -> Iterator[str]:
    """The nodes' names, made unique, since onnxruntime refuses two of one name."""
    used: set[str] = set()
    for node in graph.nodes:
        name = next(name for name in numbered(node.name or node.output) if name not in used)
        used.add(name)
        yield name


def _value_info(value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


# Reading


def load(path: Path, root: Path | None = None) -> Graph:
    """Read a graph. Its external weights must lie under `root` (default: the folder of the file)."""
    model = parse(path)
    if model.functions:  # they may call one another, and grow without end where they are written out
        raise UserError(f"{path.name} holds functions, which fewstep does not write", WRITE_AGAIN)
    try:
        return from_model(model, path, root or path.parent)
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # damage that still parses
        raise UserError(f"{path.name} is damaged ({type(error).__name__}: {error})", WRITE_AGAIN) from None


def sha256(path: Path) -> str:
    """SHA-256 of an ONNX file followed by its external weight files, in the order in which the graph names them."""
    digest = hashlib.sha256()
    for file in (path, *(_data_file(path, path.parent, location) for location in _locations(parse(path)))):
        with file.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def from_model(model: onnx.ModelProto, path: Path = Path("model.onnx"), root: Path | None = None) -> Graph:
    """The Graph of an ONNX model. `path` names it in errors and locates external weights."""
    versions = {opset.domain: opset.version for opset in model.opset_import}
    if versions.get("", versions.get("ai.onnx")) != OPSET:
        raise UserError(f"{path.name} is not an ONNX graph of opset {OPSET}", WRITE_AGAIN)
    if model.functions:
        model = inliner.inline_local_functions(model)
    constants = {tensor.name: _array(tensor, path, root or path.parent) for tensor in model.graph.initializer}
    nodes = []
    for proto in model.graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        if any(isinstance(value, onnx.GraphProto) for value in attributes.values()):
            raise UserError(
                f"{path.name}: node {proto.name!r} ({proto.op_type}) is control flow, which cannot be prepared",
                "make the branch or loop in the module's forward depend on constants only",
            )
        if proto.op_type == "Constant" and not proto.domain:
            constants[proto.output[0]] = _constant(attributes, path, root or path.parent)
        else:
            nodes.append(
                Node(proto.op_type, tuple(proto.input), tuple(proto.output), attributes, proto.name, proto.domain)
            )
    inputs = tuple(_value(v, path) for v in model.graph.input if v.name not in constants)
    outputs = tuple(_value(v, path) for v in model.graph.output)
    try:
        ordered = in_topological_order(nodes, [*(v.name for v in inputs), *constants])
    except UserError as error:
        raise UserError(f"{path.name}: {error.what}", error.fix) from None
    return Graph(model.graph.name or path.stem, inputs, outputs, ordered, constants)


def parse(path: Path) -> onnx.ModelProto:
    """The model of a file, without the weights beside it. UserError if it is none."""
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path.name} is missing", WRITE_AGAIN) from None
    except (DecodeError, OSError) as error:
        raise UserError(f"{path.name} cannot be read as ONNX ({error})", WRITE_AGAIN) from None
    if not model.opset_import or not model.graph.output:  # an empty or cut file may still parse
        raise UserError(f"{path.name} is truncated or not ONNX", WRITE_AGAIN)
    return model


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def _locations(model: onnx.ModelProto) -> tuple[str, ...]:
    external = (t for t in _tensors(model) if t.data_location == onnx.TensorProto.EXTERNAL)
    return tuple(dict.fromkeys(entry.value for t in external for entry in t.external_data if entry.key == "location"))


def _data_file(path: Path, root: Path, location: str) -> Path:
    """The file a graph at `path` calls `location`, which must stay under `root`."""
    file = (path.parent / location).resolve()
    if not location or not file.is_relative_to(root.resolve()):
        raise UserError(f"{path.name} refers to weights outside its bundle ({location!r})", "do not use this bundle")
    if not file.is_file():
        raise UserError(f"{file.name}, the weights of {path.name}, is missing", WRITE_AGAIN)
    return file


def _array(tensor: onnx.TensorProto, path: Path, root: Path) -> Array:
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return numpy_helper.to_array(tensor)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        file = _data_file(path, root, entries.get("location", ""))
        shape = tuple(tensor.dims)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
        if length != size or offset < 0 or offset + size > file.stat().st_size:
            raise UserError(f"{file.name} does not hold tensor {tensor.name!r} of {path.name}", WRITE_AGAIN)
        count = size // dtype.itemsize
        return np.fromfile(file, dtype, count, offset=offset).reshape(shape)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"tensor {tensor.name!r} of {path.name} is damaged ({error})", WRITE_AGAIN) from None


def _constant(attributes: Mapping[str, Any], path: Path, root: Path) -> Array:
    ((kind, value),) = attributes.items()
    if kind == "value":
        return _array(value, path, root)
    return np.asarray(value, np.float32 if kind.startswith("value_float") else np.int64)


def _value(info: onnx.ValueInfoProto, path: Path) -> Value:
    """A graph input or output. Whatever the exporter called the leading dynamic axis, here it is "batch"."""
    tensor = info.type.tensor_type
    if not tensor.elem_type:
        raise UserError(f"{path.name}: {info.name!r} is not a tensor", "let the module take and return tensors")
    dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]
    if dims and isinstance(dims[0], str):
        dims[0] = BATCH
    return Value(info.name, helper.tensor_dtype_to_np_dtype(tensor.elem_type), tuple(dims))
