"""Folds constants that multiply the output of an int8 operation into the scales of its weight, and into its bias.

    (op(x, s W) + bias) * c      ==>      op(x, c s W) + c bias

OpenVINO 2026.4 folds them into a float copy of the weight, and then runs the operation in float (measured). Residual
blocks have such constants.
"""

from collections.abc import Mapping
from dataclasses import replace

from fewstep.calibration.lowering.coverage import MULTIPLY
from fewstep.calibration.lowering.encoding import Encoding
from fewstep.graph.graph import Graph, rename_inputs
from fewstep.graph.index import index
from fewstep.graph.pattern import match
from fewstep.graph.types import Types

PRODUCT = f"*({' | '.join(MULTIPLY)})(x, *DequantizeLinear(codes, SCALE))"


def fold_constant_products(lowered: Graph, types: Types, codes: Mapping[str, Encoding]) -> Graph:
    """Return the graph without products by one positive constant after operations with a dequantized weight."""
    idx, constants, names = index(lowered), dict(lowered.constants), dict[str, str]()
    for node in lowered.nodes:
        found = match(node, f"Mul({PRODUCT}, FACTOR)", idx) or match(node, f"Mul(*Add({PRODUCT}, BIAS), FACTOR)", idx)
        if found is None or node.output in idx.outputs or found.nodes[-2].inputs[2:]:
            continue
        factor = lowered.constants[found["FACTOR"]]
        scaled = [found[part] for part in ("SCALE", "BIAS") if part in found.tensors]
        if factor.size != 1 or (factor <= 0).any() or not all(map(idx.is_inner, scaled)):
            continue
        for name in scaled:
            constants[name] = (constants[name] * factor.reshape(())).astype(constants[name].dtype)
        names[node.output] = found.nodes[1].output
    nodes = [rename_inputs(node, names) for node in lowered.nodes if node.output not in names]
    return replace(lowered, nodes=tuple(nodes), constants=constants)
