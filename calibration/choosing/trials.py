"""Try ways to calibrate a body in the closed loop, and keep the best.

Which ranges are best depends on the denoiser, and no error of single tensors or steps tells: clipping can lower each of
them, and still add up over the plan. So each way is lowered, and samples are made with it. Calibration pays for them:
few ways are tried, and none longer than it takes to see that it loses.

- A way that makes the graph of an earlier one is that way.
- A way that is clearly behind the best one on the first seeds gets no more of them.
- The mean error of the output is measured for the best method only. Whether it is worth it shows in samples alone: an
  error with one sign changes what a sample becomes, and need not leave a constant behind.
- What was lowered to be tried is deployed as it is.

The first way is the usual one. It stays unless another one is surely better by the mean of all samples and of the worst
quarter, and surely worse by neither.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.choosing.opened import open_lowered
from fewstep.calibration.choosing.output_error import mean_error
from fewstep.calibration.conditions_file import ConditionRecords
from fewstep.calibration.failed_bodies import Check, body_of
from fewstep.calibration.lowering.output_bias import channel_axis, with_output_bias
from fewstep.calibration.lowering.quantize import Lowered, LoweredBody, as_it_is, completed, lower_graph
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.on_demand import close
from fewstep.calibration.precision.closed_loop import (
    AT_ONCE,
    JUDGE_SEEDS,
    SELECTION_SEEDS,
    Course,
    open_course,
    without_network,
)
from fewstep.calibration.precision.variants import Variants
from fewstep.calibration.ranges.table import Method, RangesTable
from fewstep.calibration.task import Task
from fewstep.graph.digest import digest
from fewstep.graph.graph import GROUP, Graph
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.bundle.manifest import Trial
from fewstep.runtime.execute import StepState, finish
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampler import Sampler

TRIED: tuple[Method, ...] = ("channels", "channels-minmax")  # the usual one first
MEASURING = 16  # seeds that a mean error is measured on
CHOOSING = 16  # seeds that choose; neither has more than there are trajectories
FIRST = SELECTION_SEEDS.index(JUDGE_SEEDS.stop)  # precision maps have those before
BEHIND = 2.0  # standard errors of the difference: a way that is further behind the best one is left
WORST = 0.25  # of the samples, whose mean counts as much as the mean of all
RESAMPLES = 256  # of the seeds, with replacement: differences between them have the error of the difference

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Way:
    """How a body may be calibrated: the method of its ranges, and whether the mean error of its output is taken out."""

    ranges: Method
    has_bias: bool = False


@dataclass(frozen=True)
class Tried:
    """A way, the bias that it adds to the output, the PSNR of its samples [seeds] in dB, and the share of the end
    error's energy that is one number for each channel."""

    way: Way
    bias: Float | None
    psnr: Float
    shift: float

    @property
    def p5(self) -> float:
        return float(np.percentile(self.psnr, 5))

    @property
    def quality(self) -> float:
        """What ways are chosen by, in dB."""
        return float(_parts(self.psnr).mean())


@dataclass(frozen=True)
class TrialCourses:
    """What ways are tried on: the float32 body, samples that a mean error is measured on, and others that choose. Made
    by `open_trials`."""

    exact: LoadedGraph
    measuring: tuple[Course, ...]
    choosing: tuple[Course, ...]


@dataclass(frozen=True)
class Chosen:
    """The body that won, what else its ranges can be lowered to, and all that was tried: nothing if there was one
    way."""

    lowered: LoweredBody
    variants: Variants
    trials: tuple[Trial, ...] = ()


def most_evaluations(methods: int, tries_bias: bool, steps: int, trajectories: int) -> int:
    """How often trying asks the bodies of one target, and float32 beside them, for AT_ONCE samples or fewer. The
    samples of float32 that all are compared with are not among them: targets share those."""
    measuring, choosing = (-(-min(each, trajectories) // AT_ONCE) for each in (MEASURING, CHOOSING))
    return steps * (methods * choosing + tries_bias * (2 * measuring + choosing))


@dataclass(frozen=True)
class Ways:
    """The ways that bodies may take: ranges tables by method, the usual one first, and the names of targets that may
    have the mean error of their output taken out. `in_files` writes the weights of a lowered graph, for the body of
    that name, and returns the graph with them mapped; None keeps them in memory."""

    tables: Mapping[Method, RangesTable]
    biased: Collection[str] = ()
    in_files: Callable[[str, Graph], Graph] | None = None

    def variants(self, prepared: Graph, target: Target) -> dict[Method, Variants]:
        keep = as_it_is if self.in_files is None else partial(self.in_files, body_of(target))
        return {method: Variants(prepared, table, target, keep) for method, table in self.tables.items()}


def choose_each(
    task: Task,
    plan: Plan,
    targets: Sequence[Target],
    ways: Ways,
    check: Check,
    failed: dict[str, UserError],
    progress: Progress = SILENT,
) -> dict[str, Chosen]:
    """The best way for each of a task's targets, by the name of its body. `plan` has the range groups of the tables.

    `check` is what each body has to pass. Into `failed` go the errors of bodies that cannot be made. UserError if none
    can.
    """
    is_tried = {target: len(ways.tables) > 1 or target.name in ways.biased for target in targets}
    courses = None
    if any(is_tried.values()):
        shown = partial(_under, progress, "trials")
        courses = open_trials(task.sampler, plan, len(task.seeds), task.conditions, shown)
        close(task.sampler.denoiser)
    found = {}
    for done, target in enumerate(targets, 1):
        name, variants = body_of(target), ways.variants(task.prepared, target)
        own, shown = courses if is_tried[target] else None, partial(_under, progress, target.name)
        try:
            chosen = try_ways(variants, target.name in ways.biased, own, shown)
            check(name, chosen.lowered, target)
            found[name] = chosen
        except UserError as error:
            failed[name] = error
        close(task.sampler.denoiser)  # which the mean error of a body opened again
        progress("lowering", done, len(targets))
    if not found:
        raise next(iter(failed.values()))
    return found


def open_trials(
    sampler: Sampler, plan: Plan, trajectories: int, rows: ConditionRecords | None = None, progress: Progress = SILENT
) -> TrialCourses:
    """Courses for the sampler of the float32 body, along the plan in the range groups of the bodies."""
    measuring = SELECTION_SEEDS[FIRST:][: min(MEASURING, trajectories)]
    choosing = SELECTION_SEEDS[FIRST + MEASURING :][: min(CHOOSING, trajectories)]
    return TrialCourses(
        _without_group(sampler.denoiser),
        _courses(without_network(sampler), plan, measuring, rows),  # a mean error needs no samples of float32
        _courses(sampler, plan, choosing, rows, progress),
    )


def try_ways(
    variants: Mapping[Method, Variants], tries_bias: bool, courses: TrialCourses | None, progress: Progress = SILENT
) -> Chosen:
    """The best of these methods, each with the mean error of its output taken out too if that is tried. Nothing is
    tried without courses: the first is taken."""
    if courses is None:
        usual = next(iter(variants.values()))
        return Chosen(usual.lower(()), usual)
    found: list[Tried] = []
    known: set[bytes] = set()
    kept: Lowered | None = None  # what the best method so far was lowered to
    for done, (method, each) in enumerate(variants.items(), 1):
        made = lower_graph(each.prepared, each.table, each.target)
        if digest(made[0]) not in known:
            known.add(digest(made[0]))
            network = open_lowered(made[0], each.target)
            found.append(_run(Way(method), None, network, courses, found))
            kept = made if choose(found) == len(found) - 1 else kept
        progress("ways tried", done, len(variants))
    assert kept is not None  # the first is the best until another is
    best = found[choose(found)]
    usual = variants[best.way.ranges]
    if tries_bias:
        corrected = _corrected(best, kept[0], usual, courses)
        if choose([best, corrected]) == 1:
            best = corrected
        found.append(corrected)
    lowered = completed(usual.prepared, usual.table, usual.target, kept, usual.keep)
    usual = replace(usual, made=lowered)
    if best.bias is not None:
        said = f"the mean error of the output is taken out: up to {np.abs(best.bias).max():.2g}"
        lowered = replace(lowered, graph=with_output_bias(lowered.graph, best.bias), notes=(*lowered.notes, said))
    return Chosen(lowered, usual, tuple(_trial(each, each is best) for each in found))


def choose(found: Sequence[Tried]) -> int:
    """The number of the best way: the first, or one that surely beats it."""
    usual = found[0]
    better = [number for number, each in enumerate(found) if _beats(each, usual)]
    return max(better, key=lambda number: found[number].quality, default=0)


def _beats(other: Tried, usual: Tried) -> bool:
    if len(other.psnr) < len(usual.psnr):  # it was left on the way
        return False
    seeds = np.random.default_rng(0).integers(0, len(usual.psnr), (RESAMPLES, len(usual.psnr)))
    drawn = _parts(other.psnr[seeds]) - _parts(usual.psnr[seeds])  # [resamples, 2]
    wins = _parts(other.psnr) - _parts(usual.psnr)
    return bool(wins.mean() > drawn.mean(axis=1).std() and (wins >= -drawn.std(axis=0)).all())


def _parts(psnr: Float) -> Float:
    """The mean of all samples, and of the worst quarter of them: [..., 2] from [..., seeds]."""
    worst = np.sort(psnr, axis=-1)[..., : -(-psnr.shape[-1] // round(1 / WORST))]
    parts: Float = np.stack([psnr.mean(axis=-1), worst.mean(axis=-1)], axis=-1)
    return parts


def _difference(a: Float, b: Float) -> tuple[float, float]:
    """The mean difference on the seeds that both have, and its standard error."""
    both = min(len(a), len(b))
    difference = a[:both] - b[:both]
    return float(difference.mean()), float(difference.std(ddof=1)) / both**0.5 if both > 1 else 0.0


def _corrected(best: Tried, graph: Graph, variants: Variants, courses: TrialCourses) -> Tried:
    """The best way with the mean error of its output taken out."""
    groups = len(variants.table.groups) + 1 if GROUP in {value.name for value in graph.inputs} else 1
    networks = [open_lowered(graph, variants.target)] * courses.measuring[0].groups
    bias = mean_error(courses.measuring, networks, courses.exact, channel_axis(graph), groups)
    network = open_lowered(with_output_bias(graph, bias), variants.target)
    return _run(Way(best.way.ranges, True), bias, network, courses, [best])


def _run(way: Way, bias: Float | None, network: LoadedGraph, courses: TrialCourses, others: Sequence[Tried]) -> Tried:
    """Samples of a way, course by course, until it is clearly behind one of the others."""
    psnr: list[Float] = []
    errors: list[Float] = []
    for course in courses.choosing:
        states = course.run([network] * course.groups)
        psnr.append(course.quality(states))
        errors.append(_end_error(course, states))
        if any(_is_behind(np.concatenate(psnr), each.psnr) for each in others):
            break
    return Tried(way, bias, np.concatenate(psnr), constant_share(np.concatenate(errors)))


def _is_behind(psnr: Float, other: Float) -> bool:
    mean, error = _difference(psnr, other)
    return mean < -BEHIND * error


def _end_error(course: Course, states: Sequence[StepState]) -> Float:
    made, wanted = (finish(course.plan, each[-1:]).astype(np.float64) for each in (states, course.reference))
    error: Float = made - wanted
    return error


def constant_share(errors: Float) -> float:
    """The share of the energy of errors [B, C, ...] that is one number for each channel."""
    inner = tuple(range(2, errors.ndim))
    energy = float(np.square(errors).mean())
    return float(np.square(errors.mean(axis=(0, *inner))).mean()) / energy if energy > 0 else 0.0


def _trial(each: Tried, is_chosen: bool) -> Trial:
    """As the manifest has it, to digits that are more than noise."""
    mean = round(float(each.psnr.mean()), 2)
    return Trial(
        each.way.ranges, each.way.has_bias, mean, round(each.p5, 2), round(each.shift, 3), len(each.psnr), is_chosen
    )


def _courses(
    sampler: Sampler, plan: Plan, seeds: Sequence[int], rows: ConditionRecords | None, progress: Progress = SILENT
) -> tuple[Course, ...]:
    parts = [seeds[start : start + AT_ONCE] for start in range(0, len(seeds), AT_ONCE)]
    return tuple(
        open_course(sampler, plan, part, rows, partial(_of_parts, progress, number, len(parts)))
        for number, part in enumerate(parts)
    )


def _under(progress: Progress, name: str, stage: str, done: int, total: int) -> None:
    progress(f"{name}: {stage}", done, total)


def _of_parts(progress: Progress, number: int, parts: int, stage: str, done: int, total: int) -> None:
    progress(stage, number * total + done, parts * total)


def _without_group(network: LoadedGraph) -> LoadedGraph:
    """The float32 body, which has one group and no input for it."""

    def run(feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        return network({name: value for name, value in feeds.items() if name != GROUP})

    return run
