"""Time and coverage of a body whose steps run several graphs: the plan says how often each of them runs."""

from collections.abc import Mapping, Sequence

import msgspec

from fewstep.evaluation.speed.race import Contender, Race, Timing, race
from fewstep.plans.plan import Plan, regroup
from fewstep.rollouts.conditions_file import ConditionRecords
from fewstep.rollouts.held_out import held_out_conditions
from fewstep.rollouts.trajectories import roll_out
from fewstep.runtime.backends import Arrays
from fewstep.runtime.bundle.manifest import Body, GraphEntry, StepGraph
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampler import Sampler


def shares(body: Body, plan: Plan) -> list[tuple[StepGraph, float]]:
    """The graphs of a body, and which share of the plan's steps each of them runs."""
    groups = [step.group for step in regroup(plan, body.groups).steps]
    runs = [body.serving(group) for group in groups]
    return [(graph, runs.count(number) / len(runs)) for number, graph in enumerate(body.graphs) if number in runs]


def int8_share(body: Body, plan: Plan) -> float | None:
    """Share of multiply-accumulates in int8 over all steps of the plan; None if a graph's coverage is not known."""
    total = 0.0
    for graph, share in shares(body, plan):
        if graph.coverage is None or not graph.coverage.total_macs:
            return None
        total += share * graph.coverage.int8_macs / graph.coverage.total_macs  # every graph does the same work
    return total


def race_bodies(
    samplers: Mapping[str, Sampler],
    plans: Mapping[str, Plan],
    feeds: Mapping[str, Arrays],
    others: Sequence[Contender] = (),
    threads: int = 0,
    rounds: int = 7,
    seconds: float = 0.5,
    progress: Progress = SILENT,
    spinning: bool = True,
) -> Race:
    """`speed.race` of loaded bodies, and of other contenders behind them: a timing for each, a mean step of its plan.

    `plans` and `feeds` are by body; a graph is fed its own inputs.
    """
    graphs = [(name, *part) for name, sampler in samplers.items() for part in shares(sampler.body, plans[name])]
    contenders = [
        Contender(f"{name}, {graph.file}", samplers[name].bundle.graph(graph), taken(graph, feeds[name]))
        for name, graph, _ in graphs
    ]
    run = race([*contenders, *others], threads, rounds, seconds, progress, spinning)
    timed = list(zip(graphs, run.timings, strict=False))
    means = []
    for name in samplers:
        own = [(timing, share) for (body, _, share), timing in timed if body == name]
        means.append(mean_timing(name, [timing for timing, _ in own], [share for _, share in own]))
    return msgspec.structs.replace(run, timings=(*means, *run.timings[len(contenders) :]))


def middle_feeds(sampler: Sampler, plan: Plan, samples: int, rows: ConditionRecords | None = None) -> Arrays:
    """What the body is fed at the middle step of a plan: every branch of `samples` samples."""
    own = None if rows is None else held_out_conditions(sampler.bundle.manifest.conditions, range(samples), rows)
    evaluations = roll_out(sampler, plan, range(samples), batch=samples, conditions=own)
    return next(e.feeds for e in evaluations if e.state.index == len(plan.steps) // 2)


def taken(graph: GraphEntry, feeds: Arrays) -> Arrays:
    """What is fed, as far as a graph takes it: graphs of one body may take different inputs."""
    return {tensor.name: feeds[tensor.name] for tensor in graph.inputs if tensor.name in feeds}


def mean_timing(name: str, timings: Sequence[Timing], weights: Sequence[float]) -> Timing:
    """A mean step of a body: times of its graphs weighted by how often they run; ratios are of such means."""

    def mean(field: str) -> float:
        return float(sum(w * getattr(timing, field) for w, timing in zip(weights, timings, strict=True)))

    def ratio(field: str) -> float:
        return float(1 / sum(w / getattr(timing, field) for w, timing in zip(weights, timings, strict=True)))

    return Timing(
        name=name,
        median=mean("median"),
        p10=mean("p10"),
        p90=mean("p90"),
        p99=mean("p99"),
        runs=sum(timing.runs for timing in timings),
        ratio=ratio("ratio"),
        ratio_low=ratio("ratio_low"),
        ratio_high=ratio("ratio_high"),
        load=sum(timing.load for timing in timings),
        peak_mib=max(timing.peak_mib for timing in timings),
    )
