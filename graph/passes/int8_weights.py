"""Store the weights of a float network as int8, for engines that have no int8 convolution, such as WebGPU's.

The file is a quarter as large, and the arithmetic stays float.
"""

from dataclasses import replace

from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.selection import FEW_CHANNELS, OUTER, explain_selection
from fewstep.graph.weight_quantization import quantize_weight
from fewstep.plans.errors import UserError


def store_weights_as_int8(graph: Graph) -> Graph:
    """Replace weights by int8 with one float32 scale per output channel.

        Conv(x, W)      ==>      Conv(x, DequantizeLinear(int8(W / scale), scale))

    Weights of Conv, Gemm and MatMul are converted. The first and last layers, and layers of fewer than 16 channels,
    stay float, as in an int8 body (`selection.py`). Raises UserError if no weight is left, or a weight is not finite.
    """
    inputs: dict[str, dict[int, str]] = {}  # new input names of the nodes to change, by node output
    nodes: dict[str, Node] = {}
    constants: dict[str, Array] = {}
    for op, reason in explain_selection(graph):
        if reason in (OUTER, FEW_CHANNELS):
            continue
        name = f"{op.weight}/dequantized_{op.axis}"
        if name not in nodes:
            integers, scales = f"{op.weight}/int8_{op.axis}", f"{op.weight}/scales_{op.axis}"
            try:
                weight = quantize_weight(graph.constants[op.weight], op.axis)
            except ValueError as error:
                what = f"weight {op.weight!r} has {error}"
                raise UserError(what, "export a checkpoint whose weights are finite") from None
            constants |= {integers: weight.values, scales: weight.scales}
            nodes[name] = Node("DequantizeLinear", (integers, scales), (name,), {"axis": op.axis})
        inputs[op.name] = {1: name}
    if not inputs:
        raise UserError(
            f"no weight of graph {graph.name!r} can be stored as int8", "give another body, such as float32"
        )
    changed = [_with_inputs(node, inputs.get(node.output, {})) for node in graph.nodes]
    return drop_unused(graph.with_nodes([*nodes.values(), *changed], constants))


def _with_inputs(node: Node, changes: dict[int, str]) -> Node:
    """Return the node with some inputs replaced. `changes` maps their positions to new names."""
    names = tuple(changes.get(position, name) for position, name in enumerate(node.inputs))
    return replace(node, inputs=names) if changes else node
