"""Try ways to calibrate a body in the closed loop, and keep the best.

Which ranges are best depends on the denoiser, and no error of single tensors or steps tells: clipping can lower each of
them, and still add up over the plan. So each way is lowered, and samples are made with it. Calibration pays for them:
few ways are tried, and none longer than it takes to see that it loses.

- A way that makes the graph of an earlier one is that way.
- All ways of all targets share float32's samples, which are made once.
- A way that is behind the best one on the first half of the seeds gets no more of them (successive halving): it would
  have to be surely ahead on all.
- Thin convolutions are tried in float with the best method only.
- The mean error of the output is measured for the best of these only. Whether it is worth it shows in samples alone: an
  error with one sign changes what a sample becomes, and need not leave a constant behind. Each half of the seeds is
  judged with the mean error of the other half.
- The first step of all runs of a seed has the same noise: there a mean error needs no evaluation of its own.
- What was lowered to be tried is deployed as it is.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.choosing.evidence import Tried, Way, choose, constant_share, is_behind
from fewstep.calibration.choosing.opened import open_lowered
from fewstep.calibration.choosing.output_error import after_first, corrected, joined, mean_error
from fewstep.calibration.count import batch_of
from fewstep.calibration.failed_bodies import Check, body_of
from fewstep.calibration.precision.variants import Variants
from fewstep.calibration.task import Task
from fewstep.graph.digest import digest
from fewstep.graph.graph import GROUP, Graph
from fewstep.graph.io import exceeds
from fewstep.graph.weights import release
from fewstep.lowering.files import Files
from fewstep.lowering.output_bias import channel_axis, with_output_bias
from fewstep.lowering.quantize import Lowered, LoweredBody, as_it_is, completed, lower_graph
from fewstep.lowering.rounded import Rounded
from fewstep.lowering.scheme import Target
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.ranges.table import Method, RangesTable
from fewstep.rollouts.closed_loop import JUDGE_SEEDS, SELECTION_SEEDS, Course, open_course
from fewstep.rollouts.conditions_file import ConditionRecords
from fewstep.rollouts.on_demand import close
from fewstep.rollouts.row_by_row import body_by_rows, row_by_row
from fewstep.rollouts.trajectories import BATCH
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.bundle.manifest import Trial
from fewstep.runtime.execute import StepState, finish
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampler import Sampler

TRIED: tuple[Method, ...] = ("channels", "channels-balanced")  # the usual one first
CHOOSING = 8  # seeds that choose, in two halves; no more than there are trajectories
FEWEST = 4  # of these seeds: a half of one says nothing of its worse samples
FIRST = SELECTION_SEEDS.index(JUDGE_SEEDS.stop)  # precision maps have those before

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Chosen:
    """The body that won, what else its ranges can be lowered to, and all that was tried: nothing if there was one
    way."""

    lowered: LoweredBody
    variants: Variants
    trials: tuple[Trial, ...] = ()


def halves(trajectories: int) -> tuple[range, ...]:
    """The seeds that choose, half by half."""
    seeds = SELECTION_SEEDS[FIRST:][: min(CHOOSING, trajectories)]
    first = -(-len(seeds) // 2)
    return (seeds[:first], seeds[first:])


def most_evaluations(methods: int, tries_thin: bool, tries_bias: bool, steps: int, trajectories: int) -> int:
    """How often trying asks the bodies of one target for a sample. The samples of float32 that all are compared with
    are not among them: targets share those."""
    seeds = min(CHOOSING, trajectories)
    without_error = 2 * seeds * (steps - 1)  # the first step is known
    return steps * seeds * (methods + tries_thin) + tries_bias * without_error


@dataclass(frozen=True)
class Ways:
    """The ways that bodies may take: ranges tables by method, the usual one first; by the name of a target, the thin
    convolutions that may stay in float; and the names of targets whose mean error may be taken out. Weights of bodies
    lie in `files`; None keeps them in memory."""

    tables: Mapping[Method, RangesTable]
    thin: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    biased: Collection[str] = ()
    files: Files | None = None

    def variants(self, prepared: Graph, target: Target) -> dict[Method, Variants]:
        keep = as_it_is if self.files is None else partial(self.files.keep, body_of(target))
        return {method: Variants(prepared, table, target, keep) for method, table in self.tables.items()}

    def tries(self, target: Target) -> bool:
        return len(self.tables) > 1 or target.name in self.biased or bool(self.thin.get(target.name))


def courses_for(
    task: Task, plan: Plan, targets: Sequence[Target], ways: Ways, progress: Progress = SILENT
) -> tuple[Course, ...]:
    """What the ways of these targets are tried on. Nothing where there is one way."""
    if not any(map(ways.tries, targets)):
        return ()
    sampler = body_by_rows(task.sampler) if _is_large(task, ways) else task.sampler  # as counting has them
    shown = partial(_under, progress, "trials")
    courses = open_trials(sampler, plan, len(task.seeds), task.conditions, shown)
    close(task.sampler.denoiser)  # float32 beside a large int8 body is too much
    return courses


def choose_each(
    task: Task,
    plan: Plan,
    targets: Sequence[Target],
    ways: Ways,
    courses: tuple[Course, ...],
    check: Check,
    failed: dict[str, UserError],
    progress: Progress = SILENT,
) -> dict[str, Chosen]:
    """The best way for each of a task's targets, by the name of its body. `plan` has the range groups of the tables,
    `courses` are those of `courses_for`.

    `check` is what each body has to pass. Into `failed` go the errors of bodies that cannot be made. UserError if none
    can.
    """
    is_large = _is_large(task, ways)
    found = {}
    for done, target in enumerate(targets, 1):
        name, variants = body_of(target), ways.variants(task.prepared, target)
        own, shown = courses if ways.tries(target) else (), partial(_under, progress, target.name)
        thin, tries_bias = ways.thin.get(target.name, ()), target.name in ways.biased
        try:
            chosen = try_ways(variants, thin, tries_bias, own, shown, is_large, ways.files)
            check(name, chosen.lowered, target)
            found[name] = chosen
        except UserError as error:
            failed[name] = error
        progress("lowering", done, len(targets))
    if not found:
        raise next(iter(failed.values()))
    return found


def _is_large(task: Task, ways: Ways) -> bool:
    """Whether the activations of a sample are."""
    return batch_of(task, [*next(iter(ways.tables.values())).tensors]) < BATCH


def open_trials(
    sampler: Sampler, plan: Plan, trajectories: int, rows: ConditionRecords | None = None, progress: Progress = SILENT
) -> tuple[Course, ...]:
    """A course of each half of the seeds that choose, for the sampler of the float32 body, along the plan in the range
    groups of the bodies."""
    parts = halves(trajectories)
    return tuple(
        open_course(sampler, plan, seeds, rows, partial(_of_parts, progress, number, len(parts)))
        for number, seeds in enumerate(parts)
    )


def try_ways(
    variants: Mapping[Method, Variants],
    thin: tuple[str, ...],
    tries_bias: bool,
    courses: Sequence[Course],
    progress: Progress = SILENT,
    by_rows: bool = False,
    files: Files | None = None,
) -> Chosen:
    """The best of these methods; then with the operations `thin` in float, if that is better; then with the mean error
    of its output taken out, if that is tried and better. Nothing is tried without courses: the first method is taken.
    A large body sees the samples of a course one by one (`by_rows`). In `files` lie the weights of what is tried."""
    if not courses:
        usual = next(iter(variants.values()))
        return Chosen(usual.lower(()), usual)
    found: list[Tried] = []
    known: set[bytes] = set()
    made: Lowered | None = None  # what the best way so far was lowered to
    best_network: LoadedGraph | None = None  # and opened
    stages = len(variants) + bool(thin) + tries_bias
    rounded = Rounded() if files is None else files.rounded()
    lowered_by = partial(_lowered, rounded if stages - tries_bias > 1 else None, files)
    for done, (method, each) in enumerate(variants.items(), 1):
        if made is not None and exceeds(made[0]):
            best_network = None  # two networks of large weights are too many: it is opened again if it stays
        other = lowered_by(each)
        content = digest(other[0])
        release(other[0])  # which was read for it
        if content not in known:
            known.add(content)
            network = _opened(other[0], each.target, by_rows)
            found.append(_run(Way(method), repeat(network), courses, found))
            if choose(found) == len(found) - 1:
                made, best_network = other, network
            del network
        del other
        progress("ways tried", done, stages)
    best = found[choose(found)]
    usual = variants[best.way.ranges]
    assert made is not None, "the first way is the best so far"
    if thin:
        best_network = None  # as above, for any size
        other = lowered_by(usual, thin)
        network = _opened(other[0], usual.target, by_rows)
        found.append(_run(replace(best.way, in_float=thin), repeat(network), courses, [best]))
        if choose([best, found[-1]]) == 1:
            best, made, best_network = found[-1], other, network
        del other, network
        progress("ways tried", len(variants) + 1, stages)
    if tries_bias:
        network = _opened(made[0], usual.target, by_rows) if best_network is None else best_network
        groups = len(usual.table.groups) + 1
        found.append(_corrected(best, made[0], groups, network, courses))
        best = found[-1] if choose([best, found[-1]]) == 1 else best
        del network
        progress("ways tried", stages, stages)
    del best_network
    if not best.is_finite:
        what = f"samples in int8 for {usual.target.name} are not finite"
        raise UserError(what, "calibrate with other --ranges, or for another --target")
    del rounded, lowered_by
    lowered = completed(usual.prepared, usual.table, usual.target, made, usual.keep)
    if best.way.in_float:
        count = len(best.way.in_float)
        said = f"{count} thin {'convolution stays' if count == 1 else 'convolutions stay'} in float"
        lowered = replace(lowered, notes=(*lowered.notes, said))
    else:
        usual = replace(usual, made=lowered)
    if best.bias is not None:
        said = f"the mean error of the output is taken out: up to {np.abs(best.bias).max():.2g}"
        lowered = replace(lowered, graph=with_output_bias(lowered.graph, best.bias), notes=(*lowered.notes, said))
    return Chosen(lowered, usual, tuple(_trial(each, each is best) for each in found if each.is_finite))


def _lowered(rounded: Rounded | None, files: Files | None, way: Variants, in_float: tuple[str, ...] = ()) -> Lowered:
    """A graph to be tried, that of large weights with them mapped from files."""
    graph, ops, encodings = lower_graph(way.prepared, way.table, way.target, in_float, rounded)
    return files.draft(graph) if files is not None and exceeds(graph) else graph, ops, encodings


def _opened(graph: Graph, target: Target, by_rows: bool) -> LoadedGraph:
    network = open_lowered(graph, target)
    return row_by_row(network, graph.inputs) if by_rows else network


def _corrected(best: Tried, graph: Graph, groups: int, network: LoadedGraph, courses: Sequence[Course]) -> Tried:
    """The best way with the mean error of its output taken out: all of it in the end, that of the other half where one
    is run, so that no sample is judged with numbers that it gave. Nothing more is measured of one that is behind."""
    axis, output, groups = channel_axis(graph), graph.outputs[0].name, _told_apart(graph, groups)
    found: list[Float] = []

    def networks() -> Iterator[LoadedGraph]:
        for own, other, first in zip(best.first, reversed(courses), reversed(best.first), strict=True):
            found.append(mean_error(other, after_first(network, output, first), axis, groups))
            yield corrected(after_first(network, output, own), output, found[-1], axis)

    tried = _run(replace(best.way, has_bias=True), networks(), courses, [best])
    return replace(tried, bias=np.mean(found, axis=0))


def _told_apart(graph: Graph, groups: int) -> int:
    """The groups that a lowered graph tells apart, of those that its ranges have."""
    return groups if GROUP in {value.name for value in graph.inputs} else 1


def _run(way: Way, networks: Iterable[LoadedGraph], courses: Sequence[Course], others: Sequence[Tried]) -> Tried:
    """Samples of a way, each course with its network, until it is behind one of the others."""
    psnr: list[Float] = []
    ends: list[Float] = []
    first = []
    for network, course in zip(networks, courses, strict=False):  # any number of the same, or one made for each
        states = course.run([network] * course.groups)
        psnr.append(course.quality(states))
        ends.append(_end_error(course, states))
        first.append(joined(states[0].outputs, states[0].step))
        if any(is_behind(np.concatenate(psnr), each.psnr) for each in others):
            break
    end = np.concatenate(ends)
    return Tried(way, np.concatenate(psnr), constant_share(end), first=tuple(first))


def _end_error(course: Course, states: Sequence[StepState]) -> Float:
    made, wanted = (finish(course.plan, each[-1:]).astype(np.float64) for each in (states, course.reference))
    error: Float = made - wanted
    return error


def _trial(each: Tried, is_chosen: bool) -> Trial:
    """As the manifest has it, to digits that are more than noise."""
    mean = round(float(each.psnr.mean()), 2)
    way, p5, shift = each.way, round(each.p5, 2), round(each.shift, 3)
    return Trial(way.ranges, way.has_bias, mean, p5, shift, len(each.psnr), is_chosen, way.in_float)


def _under(progress: Progress, name: str, stage: str, done: int, total: int) -> None:
    progress(f"{name}: {stage}", done, total)


def _of_parts(progress: Progress, number: int, parts: int, stage: str, done: int, total: int) -> None:
    progress(stage, number * total + done, parts * total)
