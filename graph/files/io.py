"""Write ONNX files of opset 20 and IR 10, with large weights in separate files, and read untrusted files.

A bundle may come from an untrusted source, so reading checks what it uses: the file must parse, external weights must
lie inside the bundle's folder and inside their file, and there must be no control flow or other opset, which a pass
could silently misread. External weights are mapped, not read: see `weights.py`.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import helper, numpy_helper

from fewstep.graph import extents
from fewstep.graph.additions import unique_node_names
from fewstep.graph.files import weights
from fewstep.graph.files.data_files import WRITE_AGAIN, DataFiles, data_file, home_of
from fewstep.graph.files.expansion import check_size, expand_functions, refuse_sparse
from fewstep.graph.graph import BATCH, DEFAULT_DOMAIN, OPSET, Array, Graph, Node, Value
from fewstep.graph.index import sort_topologically
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import file_sha256

if TYPE_CHECKING:
    from fewstep.graph.files.commit import Writer

IR_VERSION = 10
EXTERNAL_ABOVE = 256 * 2**20  # bytes of weights; more are stored in a separate file (protobuf is limited to 2 GiB)
IN_MEMORY = "weights"  # the name of a file that does not exist: onnxruntime receives the arrays instead
GRAPHS = "graphs"  # the folder of a bundle with its graphs and their weights

Find = Callable[[Array], weights.FilePlace | None]


# Writing


def to_model(
    graph: Graph, find: Find | None = None, also: Iterable[str] = (), metadata: Mapping[str, str] | None = None
) -> onnx.ModelProto:
    """Return a graph as an ONNX model. A large constant is stored as external data if `find` returns its file.

    `also` names inner tensors to add to the outputs. They have no type; onnxruntime infers it. `metadata` is text to
    store in the file, by key.
    """
    proto = _graph_proto(graph, find)
    proto.output.extend(onnx.ValueInfoProto(name=name) for name in also)
    domains = sorted({node.domain for subgraph in graph.walk_graphs() for node in subgraph.nodes if node.domain})
    opsets = [helper.make_opsetid("", graph.opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(proto, opset_imports=opsets, ir_version=IR_VERSION, producer_name="fewstep")
    helper.set_model_props(model, {**extents.encode(graph.extents), **(metadata or {})})
    return model


def save(
    graph: Graph,
    path: Path,
    external_above: int | None = None,
    also: Iterable[str] = (),
    metadata: Mapping[str, str] | None = None,
) -> tuple[Path, ...]:
    """Write a graph, and its weights to a second file if they exceed the limit (default: EXTERNAL_ABOVE). Return the
    files written.

    The weight file of `g.onnx` is `g-<hash>.onnx.data`, with the hash of its content. A graph file therefore never
    reads the weights of another one, even if writing is interrupted.
    """
    if not exceeds_one_file(graph, external_above):
        path.write_bytes(_serialize(to_model(graph, also=also, metadata=metadata)))
        return (path,)
    draft, arrays = (
        path.with_name(path.name + ".data"),
        weights.distinct_arrays(weights.large_constants(graph).values()),
    )
    with draft.open("wb") as stream:
        offsets = weights.write(stream, arrays)
    data = draft.replace(path.with_name(f"{path.stem}-{file_sha256(draft)[:12]}{path.suffix}.data"))
    places = {
        weights.memory_key(array): weights.FilePlace(data, offset)
        for array, offset in zip(arrays, offsets, strict=True)
    }
    path.write_bytes(_serialize(to_model(graph, lambda array: places[weights.memory_key(array)], also, metadata)))
    return (path, data)


def set_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Replace the values of metadata entries in an ONNX file. Keys that the file lacks are not added."""
    model = parse(path)
    for entry in model.metadata_props:
        entry.value = metadata.get(entry.key, entry.value)
    path.write_bytes(_serialize(model))


def store(
    writer: "Writer",
    graph: Graph,
    name: str,
    external_above: int | None = None,
    others: Collection[str] = (),
) -> tuple[str, tuple[str, ...]]:
    """Add a graph to a bundle under a content-hashed name; return its path and the paths of its weight files.

    Weights already in a weight file of the bundle stay there. If the graph has any, or more bytes of weights than the
    limit (default: EXTERNAL_ABOVE), its remaining weights go to a separate file. `others` are weight files of other
    bodies. If the graph reads little of such a file (`weights.seldom_read`), that part is copied to a file of the
    graph, since every load of a graph hashes its weight files.
    """
    apart = weights.seldom_read(graph, (writer.bundle / file for file in others))
    find = _finder(writer, apart)
    shares = any(find(array) is not None for array in weights.large_constants(graph).values())
    if shares or exceeds_one_file(graph, external_above):
        (graph,) = store_weights(writer, graph, apart=apart)
        model = to_model(graph, find)
    else:
        model = to_model(graph)
    data = tuple(f"{GRAPHS}/{location}" for location in _locations(model))
    return writer.add(_serialize(model), folder=GRAPHS, name=name, suffix=".onnx"), data


def offload_weights(writer: "Writer", *graphs: Graph) -> tuple[Graph, ...]:
    """Return the graphs with their weights moved to files and released from memory, if one of them is too large for one
    file. Otherwise return them unchanged."""
    return store_weights(writer, *graphs) if any(map(exceeds_one_file, graphs)) else graphs


def store_weights(writer: "Writer", *graphs: Graph, apart: Collection[str] = ()) -> tuple[Graph, ...]:
    """Return the graphs with their large constants mapped from weight files of the bundle, one new file per graph.

    An array already in a file of the bundle stays there, unless the file's name is in `apart`. An array is written
    once, even if several graphs share it or another graph of this writer stores equal numbers. Arrays are streamed,
    never copied as a whole.
    """
    find, written = _finder(writer, apart), _find_weights(writer, apart)
    files: dict[tuple[object, ...], Array] = {}
    for graph in graphs:
        fresh = []
        for array in weights.distinct_arrays(weights.large_constants(graph).values()):
            if find(array) is not None or weights.memory_key(array) in files:
                continue
            alike = written.get((array.dtype, array.shape), ())
            same = next((stored for stored in alike if weights.are_equal(stored, array)), None)
            if same is None:
                fresh.append(array)
            else:
                files[weights.memory_key(array)] = same
        if fresh:
            writer.reserve(weights.file_bytes(fresh))
            with writer.draft("weights.data") as draft:
                offsets = weights.write(draft, fresh)
            file = weights.map_file(writer.bundle / writer.add(draft, folder=GRAPHS, name="weights", suffix=".data"))
            for array, offset in zip(fresh, offsets, strict=True):
                files[weights.memory_key(array)] = weights.view(file, offset, array.dtype, array.shape)
    return tuple(weights.map_constants(graph, files) for graph in graphs)


def _finder(writer: "Writer", apart: Collection[str] = ()) -> Find:
    """Return a function like `place_of` that finds arrays only in files of the bundle or of this writer, except files
    named in `apart`. The folder may also contain other files, such as the source of an export."""
    inside = weights.folder_finder(writer.bundle / GRAPHS)

    def find(array: Array) -> weights.FilePlace | None:
        place = inside(array)
        if place is None or place.file.name in apart:
            return None
        return place if f"{GRAPHS}/{place.file.name}" in writer.known_files else None

    return find


def exceeds_one_file(graph: Graph, limit: int | None = None) -> bool:
    """Return True if a graph is too large for one file."""
    return weights.weight_bytes(graph) > (EXTERNAL_ABOVE if limit is None else limit)


def _find_weights(writer: "Writer", apart: Collection[str]) -> dict[tuple[object, ...], list[Array]]:
    """Return the weights in files of this writer's graphs, by dtype and shape, except those in the files `apart`."""
    arrays: dict[tuple[object, ...], list[Array]] = {}
    for name in writer.files:
        if name.startswith(f"{GRAPHS}/") and name.endswith(".onnx"):
            path = writer.bundle / name
            model, files = parse(path), DataFiles(path, home_of(path, writer.bundle))
            for tensor in model.graph.initializer:
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    array = _array(tensor, path, files)
                    if (place := weights.place_of(array)) is None or place.file.name not in apart:
                        arrays.setdefault((array.dtype, array.shape), []).append(array)
    return arrays


def _serialize(model: onnx.ModelProto) -> bytes:
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _initializer(name: str, array: Array, find: Find | None) -> onnx.TensorProto:
    place = find(array) if find is not None and array.nbytes >= weights.LARGE else None
    if place is None:
        return numpy_helper.from_array(np.asarray(array), name)
    tensor = onnx.TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entries = {"location": place.file.name, "offset": str(place.offset), "length": str(array.nbytes)}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def _graph_proto(graph: Graph, find: Find | None) -> onnx.GraphProto:
    constants = {**graph.constants, **_absent_values(graph.optional)}
    return helper.make_graph(
        [_node_proto(node, name, find) for node, name in zip(graph.nodes, unique_node_names(graph), strict=True)],
        graph.name,
        [_value_info(value) for value in (*graph.inputs, *graph.optional)],
        [_value_info(value) for value in graph.outputs],
        [_initializer(name, array, find) for name, array in constants.items()],
        value_info=[_value_info(value) for value in graph.described],
    )


def _absent_values(optional: Iterable[Value]) -> dict[str, Array]:
    """Return the initializers of optional inputs, by name. ONNX treats an input with an initializer as optional.

    Their free axis has length 1, not 0, since onnxruntime's Conv over no channels returns uninitialized memory.
    """
    return {
        value.name: np.zeros([1 if isinstance(size, str) else size for size in value.shape], value.dtype)
        for value in optional
    }


def _node_proto(node: Node, name: str, find: Find | None) -> onnx.NodeProto:
    attributes = {
        key: _graph_proto(value, find) if isinstance(value, Graph) else value for key, value in node.attributes.items()
    }
    return helper.make_node(node.op, node.inputs, node.outputs, name=name, domain=node.domain, **attributes)


def _value_info(value: Value) -> onnx.ValueInfoProto:
    # only equal dimensions share a name: onnxruntime reuses the memory of one tensor for another by their names
    shape = [size if extents.is_named(size) else None for size in value.shape]
    return helper.make_tensor_value_info(value.name, helper.np_dtype_to_tensor_dtype(value.dtype), shape)


# Reading


def load(path: Path, root: Path | None = None) -> Graph:
    """Read a graph. Its external weights must lie in places that belong to the bundle `root` or, without one, to the
    file (`Home`)."""
    model = parse(path)
    if model.functions:  # fewstep writes none
        raise UserError(f"{path.name} contains ONNX functions, which fewstep does not support", WRITE_AGAIN)
    try:
        return from_model(model, path, root)
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # a damaged file may still parse
        raise UserError(f"{path.name} is damaged ({type(error).__name__}: {error})", WRITE_AGAIN) from None


def sha256(path: Path, root: Path | None = None) -> str:
    """Return the SHA-256 of an ONNX file followed by its external weight files, in the order in which the graph names
    them. `root` is the bundle of the file, if it belongs to one."""
    digest, home = hashlib.sha256(), home_of(path, root)
    for file in (path, *(data_file(path, home, location) for location in _locations(parse(path)))):
        with file.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def from_model(
    model: onnx.ModelProto,
    path: Path = Path("model.onnx"),
    root: Path | None = None,
    extra: Mapping[str, Array] | None = None,
) -> Graph:
    """Return the Graph of an ONNX model. `path` names it in errors and locates external weights.

    `extra` holds constants that the model reads but does not contain.
    """
    versions = {opset.domain: opset.version for opset in model.opset_import}
    if versions.get("", versions.get(DEFAULT_DOMAIN)) != OPSET:
        raise UserError(f"{path.name} is not an ONNX graph of opset {OPSET}", WRITE_AGAIN)
    model = expand_functions(model, path.name)
    files = DataFiles(path, home_of(path, root))
    constants = dict(extra or {}) | {tensor.name: _array(tensor, path, files) for tensor in model.graph.initializer}
    nodes = []
    for proto in model.graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        if any(isinstance(value, onnx.GraphProto) for value in attributes.values()):
            raise UserError(
                f"{path.name}: node {proto.name!r} ({proto.op_type}) is control flow, which cannot be prepared",
                "make the branch or loop in the module's forward depend on constants only",
            )
        if proto.op_type == "Constant" and not proto.domain:
            constants[proto.output[0]] = _constant(attributes, path, files)
        else:
            nodes.append(
                Node(proto.op_type, tuple(proto.input), tuple(proto.output), attributes, proto.name, proto.domain)
            )
    inputs = tuple(_value(v, path, BATCH) for v in model.graph.input if v.name not in constants)
    optional = tuple(_value(v, path) for v in model.graph.input if v.name in constants)
    optional = tuple(value for value in optional if any(isinstance(size, str) for size in value.shape))
    for value in optional:
        del constants[value.name]
    outputs = tuple(_value(v, path, BATCH) for v in model.graph.output)
    try:
        ordered = sort_topologically(nodes, [*(v.name for v in (*inputs, *optional)), *constants])
    except UserError as error:
        raise UserError(f"{path.name}: {error.what}", error.fix) from None
    sizes = extents.decode({entry.key: entry.value for entry in model.metadata_props})
    return Graph(model.graph.name or path.stem, inputs, outputs, ordered, constants, sizes, (), optional)


def parse(path: Path) -> onnx.ModelProto:
    """Return the model of a file, without its external weights. Raises UserError if it is not a model, or one that
    `check_size` refuses."""
    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path.name} is missing", WRITE_AGAIN) from None
    except (DecodeError, OSError) as error:
        raise UserError(f"{path.name} cannot be read as ONNX ({error})", WRITE_AGAIN) from None
    if not model.opset_import or not model.graph.output:  # an empty or truncated file may still parse
        raise UserError(f"{path.name} is truncated or not ONNX", WRITE_AGAIN)
    check_size(model, path.name)
    return model


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t


def take_external(model: onnx.ModelProto, path: Path) -> dict[str, Array]:
    """Return the weights that a model reads from other files, by name, each mapped. The model then names no file: it
    expects the arrays, except that it contains those of Constant nodes."""
    files, read = DataFiles(path, home_of(path)), {name for node in model.graph.node for name in node.input}
    read |= {value.name for value in model.graph.output}
    arrays: dict[str, Array] = {}
    for tensor in [tensor for tensor in _tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]:
        array = np.require(_array(tensor, path, files), requirements=["C", "A"])
        if tensor.name in read:  # onnxruntime drops others, and then refuses their values
            arrays[tensor.name] = array
            del tensor.external_data[:]
            tensor.external_data.add(key="location", value=IN_MEMORY)
        else:
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return arrays


def _locations(model: onnx.ModelProto) -> tuple[str, ...]:
    external = (t for t in _tensors(model) if t.data_location == onnx.TensorProto.EXTERNAL)
    return tuple(dict.fromkeys(entry.value for t in external for entry in t.external_data if entry.key == "location"))


def _array(tensor: onnx.TensorProto, path: Path, files: DataFiles) -> Array:
    try:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return numpy_helper.to_array(tensor)
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location, shape = entries.get("location", ""), tuple(tensor.dims)
        file = files[location]
        size = prod(shape) * dtype.itemsize
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
        if length != size or offset < 0 or offset + size > len(file):
            name = PurePosixPath(location).name
            raise UserError(f"{name} does not hold tensor {tensor.name!r} of {path.name}", WRITE_AGAIN)
        return weights.view(file, offset, dtype, shape)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"tensor {tensor.name!r} of {path.name} is damaged ({error})", WRITE_AGAIN) from None


def _constant(attributes: Mapping[str, Any], path: Path, files: DataFiles) -> Array:
    ((kind, value),) = attributes.items()
    if kind == "value":
        return _array(value, path, files)
    if kind == "sparse_value":
        refuse_sparse("a Constant", path.name)
    return np.asarray(value, np.float32 if kind.startswith("value_float") else np.int64)


def _value(info: onnx.ValueInfoProto, path: Path, leading: str | None = None) -> Value:
    """Return a graph input or output. Its leading dynamic axis is renamed `leading`, whatever the exporter called
    it."""
    tensor = info.type.tensor_type
    if not tensor.elem_type:
        raise UserError(f"{path.name}: {info.name!r} is not a tensor", "make the module take and return only tensors")
    dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]
    if leading is not None and dims and isinstance(dims[0], str):
        dims[0] = leading
    return Value(info.name, helper.tensor_dtype_to_np_dtype(tensor.elem_type), tuple(dims))
