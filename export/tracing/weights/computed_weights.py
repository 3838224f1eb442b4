"""Compute an operation that ONNX lacks when the graph is written, if it depends on weights and numbers alone, as the QR
decomposition of a parameter does."""

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Node

COMPUTED = "computed_weight"  # beginning of the names of the results


def compute_from_weights(program: torch.export.ExportedProgram, operation: Any) -> bool:
    """Replace, in place, the results of an operation by constants wherever it depends on weights and numbers alone.
    Returns False if it does nowhere."""
    values = _read_inputs(program)
    calls = [node for node in program.graph.nodes if node.target == operation]
    found = {node: value for node in calls if (value := _compute(node, values)) is not None}
    for node, value in found.items():
        for result, tensor in _split_results(node, value):
            _replace(program, result, tensor.detach().contiguous())
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    return bool(found)


def _read_inputs(program: torch.export.ExportedProgram) -> dict[Node, Any]:
    """Return the value of each input of a program: a parameter, buffer or constant; None for any other input, and for
    one that is changed in place."""
    held = {**program.state_dict, **program.constants}
    weights = {spec.arg.name: held[spec.target] for spec in program.graph_signature.input_specs if spec.target in held}
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
    return {node: None if _is_written(node) else weights.get(node.name) for node in inputs}


def _compute(node: Node, values: dict[Node, Any]) -> Any:
    """Return the value of a node; None if it depends on an input or on chance, or is changed in place. `values` keeps
    the values of nodes, so that each is computed once."""
    if node not in values:
        values[node] = None if _is_written(node) else _call(node, values)
    return values[node]


def _call(node: Node, values: dict[Node, Any]) -> Any:
    """Call the function of a node with the values of its inputs; None if one of them has none."""
    if not callable(node.target) or torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return None
    inputs = {each: _compute(each, values) for each in node.all_input_nodes}
    if any(value is None for value in inputs.values()):
        return None
    args, options = torch.fx.node.map_arg((node.args, dict(node.kwargs)), inputs.__getitem__)
    with torch.no_grad():
        return node.target(*args, **options)


def _is_written(node: Node) -> bool:
    """Return True if an operation writes into the tensor of a node, also through a view."""
    for user in node.users:
        schema = getattr(user.target, "_schema", None)
        if schema is not None and schema.is_mutable:
            return True
        is_view = user.target is operator.getitem or (
            schema is not None and any(result.alias_info is not None for result in schema.returns)
        )
        if is_view and _is_written(user):
            return True
    return False


def _split_results(node: Node, value: Any) -> Iterator[tuple[Node, torch.Tensor]]:
    """Yield the nodes of the tensors that a call returns, with their values."""
    if isinstance(value, torch.Tensor):
        yield node, value
        return
    for user in list(node.users):  # reads of an element
        yield user, value[user.args[1]]


def _replace(program: torch.export.ExportedProgram, node: Node, value: torch.Tensor) -> None:
    """Replace a node by a constant of the program, which is its first input."""
    specs = program.graph_signature.input_specs
    taken = [spec.arg.name for spec in specs]
    name = next(name for index in range(len(taken) + 1) if (name := f"{COMPUTED}_{index}") not in taken)
    with program.graph.inserting_before(next(iter(program.graph.nodes))):
        made = program.graph.placeholder(name)
    made.meta = dict(node.meta)
    node.replace_all_uses_with(made)
    specs.insert(0, InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(made.name), made.name))
    program.constants[made.name] = value
