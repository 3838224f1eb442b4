"""Replace settings of convolutions and poolings that are lists of one number for all axes. torch accepts such lists,
but ONNX does not."""

from typing import Any

import torch


def expand_short_lists(program: torch.export.ExportedProgram) -> None:
    """Replace, in place, lists such as `padding=(1,)` of a conv2d by `padding=(1, 1)`. The required length is in the
    schema of each operation."""
    for graph_module in program.graph_module.modules():
        for node in graph_module.graph.nodes if isinstance(graph_module, torch.fx.GraphModule) else ():
            if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
                continue
            declared: list[Any] = list(node.target._schema.arguments)
            args = tuple(_expand_list(value, argument.N) for value, argument in zip(node.args, declared, strict=False))
            lengths = {argument.name: argument.N for argument in declared}
            kwargs = {name: _expand_list(value, lengths.get(name)) for name, value in node.kwargs.items()}
            if args != node.args:  # torch refuses to assign those of some writes into views
                node.args = args
            if kwargs != node.kwargs:
                node.kwargs = kwargs


def _expand_list(value: Any, length: int | None) -> Any:
    """Return a list of `length` equal numbers if `value` is a list of one number, and `value` itself otherwise."""
    return [*value] * length if length and isinstance(value, list | tuple) and len(value) == 1 else value
