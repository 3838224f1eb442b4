"""Store tables of embeddings in 8 bits, with a scale for each row. Only the rows that are read become float.

Gather(table, ids)   ==>   Mul(Cast(Gather(int8, ids)), Gather(scales, ids))
"""

from collections import Counter
from dataclasses import replace

import numpy as np

from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.weight_quantization import quantize_weight
from fewstep.plans.errors import UserError

LEAST_NUMBERS = 1 << 14  # of a table; smaller ones are not worth three more nodes


def store_embeddings(graph: Graph) -> Graph:
    """Return the graph with its tables [rows, numbers] of embeddings in 8 bits. Raises UserError if a number is not
    finite."""
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    nodes, constants = list[Node](), dict[str, Array]()
    for node in graph.nodes:
        table = graph.constants.get(node.inputs[0]) if node.op == "Gather" and not node.attributes.get("axis") else None
        if table is None or not _is_large(table) or readers[node.inputs[0]] > 1:
            nodes.append(node)
            continue
        name, ids = node.inputs
        try:
            stored = quantize_weight(table, 0)
        except ValueError as error:
            raise UserError(f"table {name!r} has {error}", "export a checkpoint whose weights are finite") from None
        constants |= {f"{name}/int8": stored.values, f"{name}/scales": stored.scales.reshape(-1, 1)}
        rows, floats, scales = (f"{node.output}/{part}" for part in ("int8", "float", "scales"))
        nodes += [
            replace(node, inputs=(f"{name}/int8", ids), outputs=(rows,)),
            Node("Cast", (rows,), (floats,), {"to": 1}),
            Node("Gather", (f"{name}/scales", ids), (scales,)),
            Node("Mul", (floats, scales), (node.output,)),
        ]
    return drop_unused(graph.with_nodes(nodes, constants)) if constants else graph


def _is_large(table: Array) -> bool:
    return table.ndim == 2 and table.dtype == np.float32 and table.size >= LEAST_NUMBERS
