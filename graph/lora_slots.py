"""Slots for LoRA: optional inputs parallel to operations with weights, which a caller sets at run time.

    y = MatMul(x, W)      ==>      y = MatMul(x, W) + MatMul(MatMul(x, down), up)
    y = Conv(x, W)        ==>      y = Conv(x, W) + Conv(Conv(x, down), up)

Nothing else changes. Weights may become int8, and the LoRA term stays float. An empty slot adds zeros.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Graph, Node, Value
from fewstep.runtime.kinds.lora_slots import ENDS, slot_port, slot_port_shape

PRODUCTS = ("Conv", "MatMul", "Gemm")
OF_KERNEL = ("kernel_shape", "strides", "pads", "dilations", "auto_pad")  # attributes that are copied from the layer


def add_lora_slots(graph: Graph, layers: Mapping[str, tuple[int, ...]]) -> Graph:
    """Return the graph with inputs for LoRA weights (a slot) at each operation of the given layers. `layers` has the
    shape [out, in, *kernel] of each layer's weight.

    Nodes are named by their layers, like "down28.conv1/Conv". A layer that runs several times reads the same slot each
    time.
    """
    new, nodes, optional = NewNodes(graph), list[Node](), dict[str, Value]()
    for node in graph.nodes:
        layer = node.name.rpartition("/")[0]
        if layer not in layers or node.op not in PRODUCTS:
            nodes.append(node)
            continue
        shape, (x, result) = layers[layer], (node.inputs[0], node.output)
        own, inner, added = (new.name(f"{result}_{part}") for part in ("alone", "lora_down", "lora"))
        optional |= {
            slot_port(layer, end): Value(
                slot_port(layer, end), np.dtype(np.float32), slot_port_shape(layer, end, shape)
            )
            for end in ENDS
        }
        op, first = "MatMul", dict[str, object]()
        if node.op == "Conv":
            op, first = "Conv", {name: value for name, value in node.attributes.items() if name in OF_KERNEL}
        second = {"kernel_shape": [1] * len(shape[2:])} if first else {}
        nodes += [
            replace(node, outputs=(own,)),
            Node(op, (x, slot_port(layer, "down")), (inner,), first, f"{layer}/lora_down"),
            Node(op, (inner, slot_port(layer, "up")), (added,), second, f"{layer}/lora_up"),
            Node("Add", (own, added), (result,), name=f"{layer}/lora"),
        ]
    return replace(graph, nodes=tuple(nodes), optional=tuple(optional.values()))
