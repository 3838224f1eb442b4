"""The shares of a whole call that are int8, of its multiply-accumulates and of its bytes.

A call begins with the text and ends with the picture: besides the body of each network it has their conditioners and
prologues, the text encoder and the decoder of latents. A body may have any of them in int8.
"""

import logging
from collections.abc import Iterator

from fewstep.calibration.lowering.coverage import count_operation_macs
from fewstep.graph.files.stored_graphs import load_stored
from fewstep.measure.cost import max_branches
from fewstep.measure.speed.mean_step import graph_steps, int8_share
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.manifest import GraphEntry, Manifest, ReplacedGraph
from fewstep.runtime.bundle.networks import networks, select_network, shared_graphs
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.companions import DECODER, TEXT_ENCODER

LOG = logging.getLogger("fewstep")


def share_of_macs(bundle: Bundle, name: str, plan: Plan) -> float | None:
    """Return the share of a call's multiply-accumulates that a body computes in int8, for one sample; None if it is
    unknown, as for a large graph in float, whose operations are not counted."""
    int8, total = 0.0, 0
    for network in networks(bundle.manifest):
        body, rows = bundle.select_network(network).body(name), _count_rows(plan, network)
        if rows:
            share, coverage = int8_share(body, plan, network), body.graph.coverage
            if share is None or coverage is None:
                return None
            int8, total = int8 + rows * share * coverage.total_macs, total + rows * coverage.total_macs
    try:
        for graph, exported, times in _graphs_that_run_once(bundle.manifest, name, plan):
            macs = _count_macs(bundle, graph, exported)
            if macs is None:
                return None
            int8, total = int8 + times * macs[0], total + times * macs[1]
    except UserError as error:
        LOG.info("the multiply-accumulates of a call are not counted: %s", error)
        return None
    return int8 / total if total else None


def share_of_bytes(bundle: Bundle, name: str, plan: Plan) -> float:
    """Return the share of the bytes of a call's graphs and weights that belongs to graphs with operations in int8."""
    int8, others = set[str](), set[str]()
    for network in networks(bundle.manifest):
        if _count_rows(plan, network):
            for step_graph, _ in graph_steps(bundle.select_network(network).body(name), plan, network):
                is_int8 = step_graph.coverage is None or step_graph.coverage.int8_macs > 0
                (int8 if is_int8 else others).update((step_graph.file, *step_graph.data))
    for graph, _, _ in _graphs_that_run_once(bundle.manifest, name, plan):
        (int8 if isinstance(graph, ReplacedGraph) else others).update((graph.file, *graph.data))
    in_int8, in_float = (sum((bundle.path / file).stat().st_size for file in files) for files in (int8, others - int8))
    return in_int8 / (in_int8 + in_float)


def _count_rows(plan: Plan, network: str) -> int:
    """Return the rows that a network runs for one sample: one for each branch of its steps."""
    return sum(len(step.branches) for step in plan.steps if step.network == network)


def _count_macs(bundle: Bundle, graph: GraphEntry, exported: GraphEntry) -> tuple[int, int] | None:
    """Return the multiply-accumulates of a graph in int8, and all of them. None if they are unknown. Of a graph with
    weights alone in 8 bits none are int8, and all are those of the graph as exported."""
    if isinstance(graph, ReplacedGraph) and graph.coverage is not None:
        return graph.coverage.int8_macs, graph.coverage.total_macs
    return None if exported.data else (0, sum(count_operation_macs(load_stored(bundle, exported)).values()))


def _graphs_that_run_once(manifest: Manifest, name: str, plan: Plan) -> Iterator[tuple[GraphEntry, GraphEntry, int]]:
    """Yield the graphs of a call with a body besides those of its steps, each with the graph as exported, and how many
    rows it runs for one sample. Graphs that networks share run once. The encoder of images does not run."""
    counted_files = set[str]()
    for network in networks(manifest):
        rows, selected = _count_rows(plan, network), select_network(manifest, network)
        times_of = {
            TEXT_ENCODER: 1,
            DECODER: 1,
            **({"conditioner": max_branches(plan), "prologue": rows} if rows else {}),
        }
        shared, replaces = shared_graphs(selected), selected.bodies[name].replaces
        for which, times in times_of.items():
            if which not in shared:
                continue
            graph: GraphEntry = replaces.get(which, shared[which])
            if graph.file not in counted_files:
                counted_files.add(graph.file)
                yield graph, shared[which], times
