"""Find the first difference between two runs of a denoiser, by running parts of them again.

Tensors with equal names have equal values: the exported graph names tensors like its source, and no pass reuses a name
for another value. The search therefore compares tensors by name. It holds only a few tensors at a time, however large
the network is, and ends at a tensor that differs although all its inputs are equal.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from fewstep.export.spec import Reference
from fewstep.export.verification.difference import differs
from fewstep.export.verification.float_types import other_float_type
from fewstep.export.verification.points import ComparisonPoint
from fewstep.graph.additions import NewNodes
from fewstep.graph.cuts.prologue import PreparedDenoiser, open_rows
from fewstep.graph.files.io import exceeds_one_file
from fewstep.graph.graph import OUTPUT, Array, Graph, Node, X
from fewstep.graph.half_types import FLOAT16
from fewstep.graph.index import Index, index
from fewstep.graph.passes.rounding import round_to
from fewstep.graph.session import open_session
from fewstep.graph.types import infer_types
from fewstep.plans.errors import UserError

NO_CHANGES = "compute it from the inputs in each call, or once in __init__"
NO_DRAWS = "remove its random draws: the sampler draws the noise"
AT_ONCE = 8  # tensors compared in one run
FLOAT16_TOLERANCE = 2e-2  # share of the largest absolute value: the loss that float16 rounding may cause

Run = Callable[[Mapping[str, Array]], dict[str, Array]]
Values = Callable[[Collection[str]], Mapping[str, Array]]  # returns the available ones of these tensors, by name
Wrong = Callable[[Collection[str]], Mapping[str, bool]]  # returns whether each available one of these tensors is wrong


def find_first_wrong(graph: Graph, candidates: Collection[str], wrong: Wrong) -> str:
    """Return the wrong tensor that causes the output to be wrong, and whose own sources are all correct. The output
    must be wrong.

    Only `candidates` are checked. Each round checks some sources of the current wrong tensor, evenly spaced in the
    order of computation, and continues upstream of the first wrong one. Tensors that are reached only through correct
    tensors are skipped. A wrong tensor that causes no other tensor to be wrong, such as the infinities of a mask, is
    skipped too.
    """
    idx = index(graph)
    order = [output for node in graph.nodes for output in node.outputs if output in candidates]
    verdicts: dict[str, bool | None] = {}  # None: one side lacks the tensor
    harmless: set[str] = set()

    def ask(names: list[str]) -> None:
        new = [name for name in names if name not in verdicts]
        answers = wrong(new) if new else {}
        verdicts.update((name, answers.get(name)) for name in new)

    current = OUTPUT
    while True:
        right = {name for name, verdict in verdicts.items() if verdict is False}
        above = _ancestors(current, idx, harmless | right) - {current}
        wrong_above = [name for name in order if name in above and verdicts.get(name)]
        left = [name for name in order if name in above and name not in verdicts]
        if wrong_above:
            current = wrong_above[0]
        elif left:
            ask([left[i] for i in np.unique(np.linspace(0, len(left) - 1, AT_ONCE).astype(int))])
        elif current == OUTPUT:
            return OUTPUT
        else:
            below = _descendants_with_verdict(current, idx, set(order), verdicts)
            while unknown := [name for name in below if name in candidates and name not in verdicts]:
                ask(unknown[:AT_ONCE])
                below = _descendants_with_verdict(current, idx, set(order), verdicts)
            if any(verdicts.get(name, True) for name in below):
                return current
            harmless.add(current)
            current = OUTPUT


def _ancestors(name: str, idx: Index, closed: Collection[str]) -> set[str]:
    """Return the tensors that this one depends on, including itself, without passing through `closed` tensors."""
    reached, left = {name}, [name]
    while left:
        node = idx.producers.get(left.pop())
        new = {name for name in (node.inputs if node else ()) if name and name not in reached and name not in closed}
        reached |= new
        left.extend(new)
    return reached


def _descendants_with_verdict(
    name: str, idx: Index, candidates: Collection[str], verdicts: Mapping[str, bool | None]
) -> list[str]:
    """Return the nearest tensors computed from `name` that have already been compared, and all outputs of the graph
    that depend on it."""
    reached, left, below = {name}, [name], list[str]()
    while left:
        for node in idx.consumers.get(left.pop(), ()):
            for each in set(node.outputs) - reached:
                reached.add(each)
                if each in idx.outputs or (each in candidates and verdicts.get(each, False) is not None):
                    below.append(each)
                else:
                    left.append(each)
    return below


def explain_mismatch(
    is_prepared: bool,
    relative: float,
    point: ComparisonPoint,
    expected: Array,
    reference: Reference,
    exported: Graph,
    prepared: PreparedDenoiser,
) -> UserError:
    """Return the error for a graph whose output differs from the reference's output `expected` at a point. It names the
    first node whose value differs."""
    if differs(expected, reference.output(point.feeds), reference.tolerance):
        return explain_randomness(reference, point)
    of_exported = _open_inner_values(partial(open_session, exported), point)
    if is_prepared:
        graphs = [graph for graph in (prepared.conditioner, prepared.prologue, prepared.body) if graph is not None]
        kept = {output for graph in graphs for node in graph.nodes for output in node.outputs}
        of_prepared = _open_inner_values(partial(open_prepared, prepared), point)
        first = _find_first_difference(exported, kept, of_exported, of_prepared, reference.tolerance)
        what, fix = "the prepared graph differs from the exported one", "report the module: this is a bug in fewstep"
    else:
        inner = partial(reference.inner_tensors, point.feeds)
        first = _find_first_difference(exported, reference.tensor_names(), inner, of_exported, reference.tolerance)
        dtype = None if first is None else other_float_type(exported, first)
        what, fix = f"the exported graph differs from {reference.engine}", reference.fix
        if dtype is not None:
            fix = f"it computes in {dtype}, which engines round at different points: compute it in float32"
    return UserError(f"{what}{_describe_start(exported, first)}: {relative:.2g} at {point}", fix)


def explain_randomness(reference: Reference, point: ComparisonPoint) -> UserError:
    reason = reference.random_operation()
    fix = NO_CHANGES if "changes buffer" in reason else NO_DRAWS
    return UserError(f"{reference.name} returns a different output each time{reason}, at {point}", fix)


def find_sample_mixing(reference: Reference, exported: Graph, feeds: Mapping[str, Array]) -> str:
    """Return, as text, the first node at which a sample's values depend on the other samples of its batch."""
    first = {name: array[:1] for name, array in feeds.items()}

    def wrong(names: Collection[str]) -> dict[str, bool]:
        together, alone = reference.inner_tensors(feeds, names), reference.inner_tensors(first, names)
        parted = (name for name in together if name in alone and together[name].shape[:1] == feeds[X].shape[:1])
        return {name: differs(alone[name], together[name][:1], reference.tolerance) for name in parted}

    return f", from {describe_node(exported, find_first_wrong(exported, set(reference.tensor_names()), wrong))} on"


def explain_float16_loss(relative: float, point: ComparisonPoint, name: str, prepared: PreparedDenoiser) -> str:
    """Return the error message for a graph that loses too much accuracy in float16. It names the node at which the loss
    or the overflow begins."""
    rough = round_to_float16(prepared)
    inner = {output for node in prepared.body.nodes for output in node.outputs}

    if relative < math.inf:
        exact, rounded = (_open_inner_values(partial(open_prepared, graph), point) for graph in (prepared, rough))
        first = _find_first_difference(prepared.body, inner, exact, rounded, FLOAT16_TOLERANCE)
        return (
            f"{name} in float16 differs from float32 by {relative:.2g} at {point},"
            f"{_describe_start(prepared.body, first)}"
        )
    flags, body = _add_finite_flags(rough.body, inner)
    found = open_prepared(replace(rough, body=body), flags.values())(point.feeds)
    lost = {tensor: not np.isfinite(found[flag]) for tensor, flag in flags.items()}
    start = find_first_wrong(prepared.body, lost.keys() - {OUTPUT}, lambda names: {name: lost[name] for name in names})
    node = describe_node(prepared.body, start)
    return f"{name} in float16 differs from float32 and overflows at {point}, from {node} on"


def _add_finite_flags(graph: Graph, names: Collection[str]) -> tuple[dict[str, str], Graph]:
    """Add a scalar output for each float tensor in `names` that is not finite if the tensor is not. Return the names of
    these scalars, by tensor, and the graph."""
    types, new, nodes, flags = infer_types(graph), NewNodes(graph), list[Node](), dict[str, str]()
    for node in graph.nodes:
        nodes.append(node)
        for name in node.outputs:
            if name in names and (value := types.values.get(name)) is not None and value.dtype == np.float32:
                zero, flags[name] = new.name(f"zero({name})"), new.name(f"flag({name})")
                nodes.append(Node("Sub", (name, name), (zero,)))
                nodes.append(Node("ReduceSum", (zero,), (flags[name],), {"keepdims": 0}))
    return flags, graph.with_nodes(nodes)


def round_to_float16(prepared: PreparedDenoiser) -> PreparedDenoiser:
    """Return the denoiser with its body rounded to float16 after each operation. Conditioner and prologue run once per
    call, and stay float32."""
    return replace(prepared, body=round_to(prepared.body, FLOAT16))


def explain_not_finite(reference: Reference, exported: Graph, point: ComparisonPoint) -> UserError:
    """Return the error that names the reference's first tensor that is not finite although its inputs are."""

    def wrong(names: Collection[str]) -> dict[str, bool]:
        values = reference.inner_tensors(point.feeds, names)
        return {name: value.dtype.kind == "f" and not np.isfinite(value).all() for name, value in values.items()}

    first = find_first_wrong(exported, set(reference.tensor_names()), wrong)
    return UserError(
        f"the output of {reference.name} is not finite at {point}, from {describe_node(exported, first)} on",
        "check the weights and the range of x and time",
    )


def open_prepared(prepared: PreparedDenoiser, also: Collection[str] = ()) -> Run:
    """Return a function that runs the prepared parts like the runtime, the body last. `also` names inner tensors to
    return too.

    A large graph is loaded and closed in each call, so that only one graph's weights are in memory at a time.
    """

    def open_graph(graph: Graph) -> Run:
        made = {output for node in graph.nodes for output in node.outputs} - {value.name for value in graph.outputs}
        names = [name for name in also if name in made]
        return (
            (lambda feeds: open_session(graph, names)(feeds)) if exceeds_one_file(graph) else open_session(graph, names)
        )

    body, compute_rows = open_graph(prepared.body), open_rows(prepared, open_graph)

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        rows = compute_rows(feeds)
        return {**rows, **body({**feeds, **rows})}

    return run


def _open_inner_values(opened: Callable[[Collection[str]], Run], point: ComparisonPoint) -> Values:
    """Return a function from tensor names to the tensors' values at a point. It runs the graphs with these tensors as
    additional outputs."""

    def values(names: Collection[str]) -> Mapping[str, Array]:
        returned = opened(names)(point.feeds)
        return {name: returned[name] for name in names if name in returned}

    return values


def _find_first_difference(
    graph: Graph, names: Collection[str], expected: Values, actual: Values, tolerance: float
) -> str | None:
    """Return the first tensor at which two sides differ; None if only the output can be compared."""

    def wrong(candidates: Collection[str]) -> dict[str, bool]:
        exact = expected(candidates)
        computed = actual(list(exact))
        return {name: differs(exact[name], computed[name], tolerance) for name in exact if name in computed}

    computed = {output for node in graph.nodes for output in node.outputs}
    candidates = computed & set(names) - {value.name for value in graph.outputs}
    return find_first_wrong(graph, candidates, wrong) if candidates else None


def _describe_start(graph: Graph, tensor: str | None) -> str:
    """Return the node that computes the first wrong tensor, as text after a space; "" if it is unknown."""
    return "" if tensor is None else f" from {describe_node(graph, tensor)} on"


def describe_node(graph: Graph, tensor: str) -> str:
    """Describe the node that computes a tensor: "node 'conv2d_3' (down28.conv1/Conv)"."""
    name = next((node.name or node.op for node in graph.nodes if tensor in node.outputs), "")
    return f"node {tensor!r} ({name})" if name else f"tensor {tensor!r}"
