"""Expand the functions of an ONNX model, and refuse models that no engine can open in reasonable time and memory.

A file of a few kilobytes can describe 2^40 nodes by functions that call each other, so nodes are counted before any
function is expanded.
"""

from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter

import onnx
from onnx import inliner

from fewstep.graph.graph import DEFAULT_DOMAIN
from fewstep.plans.errors import UserError, first_line

MOST_NODES = 100_000  # of a graph after its functions are expanded; the largest networks have about 20,000
MOST_TENSORS = 20_000  # stored weights; onnxruntime opens 8,000 in 0.1 s, and 45,000 in 5 s
MOST_NESTED = 100  # functions that call each other, each inside the one before it; engines open them recursively
WITHOUT_FUNCTIONS = "export the model again without functions"
SMALLER = "check where the file comes from, or export a smaller part of the model"

Key = tuple[str, str, str]  # domain, name and overload of a function


def expand_functions(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return the model with its functions replaced by their nodes. `name` names the file in errors."""
    if not model.functions:
        return model
    try:
        expanded: onnx.ModelProto = inliner.inline_local_functions(model)
    except Exception as error:  # onnx's C++ exceptions have no common base class
        what = f"{name} has functions that onnx cannot expand ({first_line(error)})"
        raise UserError(what, WITHOUT_FUNCTIONS) from error
    return expanded


def check_size(model: onnx.ModelProto, name: str) -> None:
    """Raise UserError for a model with too many nodes or stored weights, with functions that call themselves, or with
    sparse weights. `name` names the file in errors."""
    for tensor in model.graph.sparse_initializer:
        refuse_sparse(f"the weight {tensor.values.name!r}", name)
    if len(model.graph.initializer) > MOST_TENSORS:
        count = len(model.graph.initializer)
        raise UserError(f"{name} stores {count:,} weights, more than {MOST_TENSORS:,}", SMALLER)
    nodes = _count_nodes(model, name)
    if nodes > MOST_NODES:
        expands = " after its functions are expanded" * bool(model.functions)
        text = f"{nodes:,}" if nodes < 10**9 else f"about 10^{len(str(nodes)) - 1}"
        fix = WITHOUT_FUNCTIONS if model.functions else SMALLER
        raise UserError(f"{name} has {text} nodes{expands}, more than {MOST_NODES:,}", fix)


def refuse_sparse(weight: str, name: str) -> None:
    """Raise UserError for a sparse weight. `weight` names it, with quotes."""
    what = f"{name} stores {weight} as a sparse tensor, which fewstep does not read"
    raise UserError(what, "store it as a dense tensor (initializer) and write the file again")


def _count_nodes(model: onnx.ModelProto, name: str) -> int:
    """Return the number of nodes after all functions are expanded, also of subgraphs.

    Each function is counted once, after the functions that it calls. Raises UserError for functions that call
    themselves, and for calls that are nested too deeply.
    """
    functions = {
        _key(function.domain, function.name, function.overload): _calls(function.node) for function in model.functions
    }
    inner = {key: called.keys() & functions.keys() for key, called in functions.items()}
    counts: dict[Key, int] = {}
    depths: dict[Key, int] = {}
    try:
        for key in TopologicalSorter(inner).static_order():
            counts[key] = _sum_counts(functions[key], counts)
            depths[key] = 1 + max((depths[callee] for callee in inner[key]), default=0)
    except CycleError as error:
        _, (_, function, _), *_ = error.args[1]
        raise UserError(f"{name}: the function {function!r} calls itself", WITHOUT_FUNCTIONS) from None
    if (depth := max(depths.values(), default=0)) > MOST_NESTED:
        raise UserError(f"{name} nests {depth:,} functions, more than {MOST_NESTED}", WITHOUT_FUNCTIONS)
    return _sum_counts(_calls(model.graph.node), counts)


def _sum_counts(called: dict[Key, int], counts: dict[Key, int]) -> int:
    """Return the number of nodes for these calls. A node that is not a function counts once."""
    return sum(times * counts.get(key, 1) for key, times in called.items())


def _calls(nodes: Iterable[onnx.NodeProto]) -> dict[Key, int]:
    """Return how often these nodes, and those of their subgraphs, compute each operation or function."""
    called: dict[Key, int] = {}
    for node in _walk(nodes):
        key = _key(node.domain, node.op_type, node.overload)
        called[key] = called.get(key, 0) + 1
    return called


def _key(domain: str, name: str, overload: str) -> Key:
    return "" if domain == DEFAULT_DOMAIN else domain, name, overload


def _walk(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    waiting = [iter(nodes)]
    while waiting:
        for node in waiting.pop():
            yield node
            for attribute in node.attribute:
                waiting += [iter(graph.node) for graph in (attribute.g, *attribute.graphs) if graph.node]
