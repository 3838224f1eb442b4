"""float32 constants whose numbers are stored in 16 bits, as in a checkpoint in bfloat16. They take no more memory than
they are stored in: each becomes float32 where it is computed with.

Passes need not know of them. numpy reads one as a float32 array, which it makes for the moment; transposing and slicing
return further views of the stored numbers.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import ml_dtypes
import numpy as np

from fewstep.graph.graph import Array, Graph, Node, rename_inputs

FLOAT32 = np.dtype(np.float32)
STORED = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))  # types of which every number is one of float32
LEAST_BYTES = 2**20  # of stored numbers; smaller constants are float32, since their memory does not matter
FLOAT_CODE = 1  # ONNX's number of float32
TO_FLOAT32 = {"to": FLOAT_CODE}


class WidenedArray(np.lib.mixins.NDArrayOperatorsMixin):
    """The float32 numbers of `stored`, an array of a type in `STORED`."""

    dtype = FLOAT32
    itemsize = FLOAT32.itemsize
    base = None

    def __init__(self, stored: Array) -> None:
        self.stored = stored
        self.shape = stored.shape
        self.ndim, self.size, self.nbytes = stored.ndim, stored.size, stored.size * FLOAT32.itemsize

    def transpose(self, *axes: Any) -> "WidenedArray":
        return WidenedArray(self.stored.transpose(*axes))

    def reshape(self, *shape: Any) -> "WidenedArray":
        return WidenedArray(self.stored.reshape(*shape))

    @property
    def T(self) -> "WidenedArray":
        return WidenedArray(self.stored.T)

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, part: Any) -> Any:
        return WidenedArray(self.stored[part])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a stored array cannot be read as float32 without a copy")
        widened: Array = self.stored.astype(FLOAT32)
        return widened if dtype is None else widened.astype(dtype, copy=False)

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **options: Any) -> Any:
        plain = (np.asarray(value) if isinstance(value, WidenedArray) else value for value in inputs)
        return getattr(function, method)(*plain, **options)

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the float32 array. numpy would read those with underscores as memory, which
        ends with that array."""
        if name.startswith("_") or name == "stored":
            raise AttributeError(name)
        return getattr(np.asarray(self), name)


def widen(stored: Array) -> Array:
    """Return a constant with the float32 numbers of an array of a type in `STORED`."""
    return cast(Array, WidenedArray(stored))


def stored_array(array: Array) -> Array | None:
    """Return the array in which the numbers of a constant are stored; None for any other array."""
    return cast(Array, array.stored) if isinstance(array, WidenedArray) else None


def widen_constants(graph: Graph) -> Graph:
    """Return the graph with each constant that is stored in 16 bits, and cast to float32, as a constant in float32.

    MatMul(x, Cast(stored, to float32))      ==>      MatMul(x, stored/float32)
    Cast(Gather(stored, ids), to float32)    ==>      Gather(stored/float32, ids)
    """
    graph = _cast_before_gather(graph)
    names = {
        node.output: f"{node.inputs[0]}/float32"
        for node in graph.nodes
        if node.op == "Cast" and node.attributes.get("to") == FLOAT_CODE and _is_stored(graph, node.inputs[0])
    }
    if not names:
        return graph
    rest = [rename_inputs(node, names) for node in graph.nodes if node.output not in names]
    read = {name for node in rest for name in node.inputs}
    constants = {name: array for name, array in graph.constants.items() if name in read}
    constants |= {name: widen(graph.constants[name.removesuffix("/float32")]) for name in names.values()}
    return replace(graph, nodes=tuple(rest), constants=constants)


def _is_stored(graph: Graph, name: str) -> bool:
    array = graph.constants.get(name)
    return array is not None and array.dtype in STORED and array.nbytes >= LEAST_BYTES


def _cast_before_gather(graph: Graph) -> Graph:
    """Return the graph with a Cast of the whole table in place of each Cast of rows that a Gather has taken from it."""
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    readers.update(value.name for value in graph.outputs)
    gathers = {
        node.output: node
        for node in graph.nodes
        if node.op == "Gather" and _is_stored(graph, node.inputs[0]) and readers[node.output] == 1
    }
    nodes, moved = list[Node](), set[str]()
    for node in graph.nodes:
        gather = gathers.get(node.inputs[0]) if node.op == "Cast" and node.attributes.get("to") == FLOAT_CODE else None
        if gather is None:
            nodes.append(node)
            continue
        table, ids = gather.inputs
        nodes += [
            Node("Cast", (table,), (f"{node.output}/table",), TO_FLOAT32),
            replace(gather, inputs=(f"{node.output}/table", ids), outputs=node.outputs),
        ]
        moved.add(gather.output)
    return replace(graph, nodes=tuple(node for node in nodes if node.output not in moved)) if moved else graph


def cast_constants(graph: Graph) -> Graph:
    """Return the graph with constants in the type in which they are stored, and a Cast before each node that reads one:
    an engine then makes float32 numbers of one layer at a time, and maps what is stored in a file. Of a table, only the
    rows that a Gather takes become float32.

    MatMul(x, constant)      ==>      MatMul(x, Cast(stored, to float32))
    Gather(constant, ids)    ==>      Cast(Gather(stored, ids), to float32)
    """
    stored = {name: own for name, array in graph.constants.items() if (own := stored_array(array)) is not None}
    if not stored:
        return graph
    nodes, constants = list[Node](), dict[str, Array]()
    readers = Counter[str]()
    for node in graph.nodes:
        table = stored.get(node.inputs[0]) if node.op == "Gather" else None
        if table is not None and table.flags.c_contiguous:
            rows = f"{node.output}/stored"
            constants[f"{node.inputs[0]}/stored"] = table
            nodes.append(replace(node, inputs=(f"{node.inputs[0]}/stored", node.inputs[1]), outputs=(rows,)))
            nodes.append(Node("Cast", (rows,), node.outputs, TO_FLOAT32))
            continue
        inputs = list(node.inputs)
        for place, name in enumerate(node.inputs):
            if name in stored:
                readers[name] += 1
                inputs[place] = f"{name}/float32_{readers[name]}"
                nodes += _cast(name, stored[name], inputs[place], constants)
        nodes.append(replace(node, inputs=tuple(inputs)))
    others = {name: array for name, array in graph.constants.items() if name not in stored}
    return replace(graph, nodes=tuple(nodes), constants={**others, **constants})


def _cast(name: str, stored: Array, output: str, constants: dict[str, Array]) -> Sequence[Node]:
    """Return the nodes that make float32 numbers of a stored array, and add its constant. A transposed array is stored
    as it is in its file."""
    order = _order_of_axes(stored)
    if order is None:
        constants[f"{name}/stored"] = np.ascontiguousarray(stored)
        return (Node("Cast", (f"{name}/stored",), (output,), TO_FLOAT32),)
    constants[f"{name}/stored"] = stored.transpose(order)
    back = [int(axis) for axis in np.argsort(order)]
    if back == sorted(back):
        return (Node("Cast", (f"{name}/stored",), (output,), TO_FLOAT32),)
    moved = f"{output}/transposed"
    turned = Node("Transpose", (f"{name}/stored",), (moved,), {"perm": back})
    return (turned, Node("Cast", (moved,), (output,), TO_FLOAT32))


def _order_of_axes(array: Array) -> tuple[int, ...] | None:
    """Return the order of axes in which an array is contiguous, or None."""
    order = tuple(sorted(range(array.ndim), key=lambda axis: -array.strides[axis]))
    return order if array.transpose(order).flags.c_contiguous else None
