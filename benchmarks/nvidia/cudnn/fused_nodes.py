"""A node `Fused`, which stands for the nodes of a group, and its operation. Nothing here needs the package onnx."""

from collections.abc import Mapping
from math import prod
from typing import Any

from benchmarks.nvidia.cudnn.operations import Operation
from fewstep.graph.graph import Node

FUSED = "Fused"


def operation_of(node: Node, x: tuple[int, ...], weights: tuple[int, ...]) -> Operation:
    """The operation of a node `Fused`, for an activation and weights of these shapes. A signal is an image of one line,
    and a product has all rows in one matrix."""
    attributes: Mapping[str, Any] = node.attributes
    precision, epilogue = attributes["precision"], tuple(attributes["epilogue"])
    floats = attributes.get("floats", "half")  # graphs of earlier versions lack it
    if "strides" not in attributes:
        rows = prod(x[:-1])
        return Operation((1, rows, x[-1]), (1, *weights), precision, epilogue, floats=floats)
    if len(x) == 3:
        x, weights = (x[0], x[1], 1, x[2]), (*weights[:2], 1, weights[-1])
    strides, pads, dilations = (tuple(attributes[name]) for name in ("strides", "pads", "dilations"))
    return Operation(x, weights, precision, epilogue, strides, pads, dilations, floats=floats)
