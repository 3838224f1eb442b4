"""Constants that multiply what an int8 operation makes go into the scales of its weight, and into its bias.

    (op(x, s W) + bias) * c      ==>      op(x, c s W) + c bias

OpenVINO 2026.4 does so with the weight in float, which then has no 8 bits, and runs the operation in float (measured).
Residual blocks have such constants.
"""

from collections.abc import Mapping
from dataclasses import replace

from fewstep.calibration.lowering.coverage import MULTIPLY
from fewstep.calibration.lowering.encoding import Encoding
from fewstep.graph.graph import Array, Graph, Node, rename_inputs
from fewstep.graph.index import index
from fewstep.graph.types import Types


def fold_constant_products(lowered: Graph, types: Types, codes: Mapping[str, Encoding]) -> Graph:
    """The graph without the products by one positive constant behind operations whose weight is dequantized."""
    readers: dict[str, list[Node]] = {}
    for node in lowered.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    idx, ports = index(lowered), {value.name for value in lowered.outputs}
    constants, gone, names = dict(lowered.constants), set[str](), dict[str, str]()

    def follower(name: str, *ops: str) -> Node | None:
        """The only reader of a tensor, if it is one of these operations and nobody else sees the tensor."""
        found = readers.get(name, [])
        return found[0] if len(found) == 1 and found[0].op in ops and name not in ports else None

    for node in lowered.nodes:
        pair = idx.producer(node.inputs[1], "DequantizeLinear") if node.op in MULTIPLY else None
        if pair is None or len(readers[pair.output]) > 1 or len(readers[pair.inputs[1]]) > 1 or node.inputs[2:]:
            continue
        added, product = follower(node.output, "Add"), follower(node.output, "Mul")
        if added is not None:
            product = follower(added.output, "Mul")
        factor = None if product is None else _constant(product, lowered)
        bias = None if added is None else _bias(added, lowered)
        shared = bias is not None and len(readers[bias]) > 1
        if (
            product is None
            or factor is None
            or product.output in ports
            or shared
            or (added is not None and bias is None)
        ):
            continue
        scale = pair.inputs[1]
        constants[scale] = (constants[scale] * factor).astype(constants[scale].dtype)
        if bias is not None:
            constants[bias] = (constants[bias] * factor).astype(constants[bias].dtype)
        gone.add(product.output)
        names[product.output] = node.output if added is None else added.output
    nodes = [rename_inputs(node, names) for node in lowered.nodes if node.output not in gone]
    return replace(lowered, nodes=tuple(nodes), constants=constants)


def _constant(product: Node, graph: Graph) -> Array | None:
    """The one positive number that a product multiplies by."""
    found = [graph.constants[name] for name in product.inputs if graph.is_constant(name)]
    return found[0].reshape(()) if found and found[0].size == 1 and (found[0] > 0).all() else None


def _bias(added: Node, graph: Graph) -> str | None:
    return next((name for name in added.inputs if graph.is_constant(name)), None)
