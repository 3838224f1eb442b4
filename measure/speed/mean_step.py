"""The mean step of a body whose steps run several graphs or networks, each weighted by the number of steps that run
it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import gcd

from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.record_sizes import records_of_one_size
from fewstep.measure.rollouts.seeds import held_out_conditions
from fewstep.measure.rollouts.trajectories import roll_out
from fewstep.measure.speed.contender import OnBackend, TimedContender, TimedGraph
from fewstep.plans.any_plan import AnyPlan, regroup
from fewstep.plans.plan import DENOISER
from fewstep.runtime.backends import Arrays
from fewstep.runtime.bundle.manifest import Body, GraphEntry, StepGraph
from fewstep.runtime.bundle.platforms import needs_wide_sums
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.sampler import Sampler

LONGEST_CALL = 12  # maximum steps of a timed call; for longer plans it approximates the plan's proportions


def graph_steps(body: Body, plan: AnyPlan, network: str = DENOISER) -> list[tuple[StepGraph, int]]:
    """Return those graphs of a network's body that run steps of a plan, each with the number of steps that it runs."""
    steps = regroup(plan, {network: body.groups}).steps
    runs = [body.graph_index(step.group) for step in steps if step.network == network]
    return [(graph, runs.count(number)) for number, graph in enumerate(body.graphs) if number in runs]


def int8_share(body: Body, plan: AnyPlan, network: str = DENOISER) -> float | None:
    """Return the fraction of multiply-accumulates in int8 over the network's steps of the plan; None if a graph's
    coverage is unknown, or the network has no steps."""
    parts = graph_steps(body, plan, network)
    if not parts or any(graph.coverage is None or not graph.coverage.total_macs for graph, _ in parts):
        return None
    total = sum(steps for _, steps in parts)  # every graph does the same work
    return sum(steps / total * each.int8_macs / each.total_macs for graph, steps in parts if (each := graph.coverage))


def make_contender(
    bundle: Bundle, body: str, plan: AnyPlan, feeds: Mapping[str, Arrays], backend: str | None = None, name: str = ""
) -> TimedContender:
    """Return a body as a contender to be timed along a plan: its graphs on onnxruntime, or its networks on another
    backend. `feeds` are the inputs of each network."""
    graphs = list[TimedGraph]()
    for network, fed in feeds.items():
        alone = bundle.select_network(network)
        own = alone.body(body)
        parts = graph_steps(own, plan, network)
        if backend is None:
            is_wide = needs_wide_sums(own.target, own.platform)
            graphs += [
                TimedGraph(alone.graph(graph), select_feeds(graph, fed), steps, network, is_wide)
                for graph, steps in parts
            ]
        else:
            loaded, steps = OnBackend(backend, bundle.path, body), sum(steps for _, steps in parts)
            graphs.append(TimedGraph(loaded, select_feeds(own.graph, fed), steps, network))
    counts = steps_per_call([graph.steps for graph in graphs])
    timed = (replace(graph, steps=count) for graph, count in zip(graphs, counts, strict=True))
    return TimedContender(name or body, tuple(timed))


def steps_per_call(steps: Sequence[int]) -> list[int]:
    """Return the steps of each graph in one timed call, given its steps in a plan: the fewest with the same
    proportions. If these exceed LONGEST_CALL, return about that many in approximate proportions."""
    divisor = max(gcd(*steps), sum(steps) / LONGEST_CALL)
    return [max(1, round(count / divisor)) for count in steps]


def middle_feeds(
    sampler: Sampler, plan: AnyPlan, samples: int, records: ConditionRecords | None = None
) -> dict[str, Arrays]:
    """Return, for each network, its inputs at the middle one of those steps of a plan that it runs: every branch of
    `samples` samples."""
    networks, feeds, takes = [step.network for step in plan.steps], {}, sampler.bundle.manifest
    alike = records_of_one_size(records)  # one call has samples of one size
    values = None if alike is None else held_out_conditions(takes, range(samples), alike)
    for network in dict.fromkeys(networks):
        steps = [index for index, each in enumerate(networks) if each == network]
        calls = roll_out(sampler, plan, range(samples), batch=samples, conditions=values, network=network)
        feeds[network] = next(call.feeds for call in calls if call.state.index == steps[len(steps) // 2])
    return feeds


def select_feeds(graph: GraphEntry, feeds: Arrays) -> Arrays:
    """Return those of `feeds` for which a graph has an input. (The graphs of one body may have different inputs.)"""
    return {tensor.name: feeds[tensor.name] for tensor in graph.inputs if tensor.name in feeds}
