"""Try ways to calibrate a body in the closed loop, and keep the best.

Which ranges are best depends on the denoiser, and no error of single tensors or steps shows it: clipping can lower each
of them, and still add up over the plan. So each way is lowered, and samples are made with it.

- All ways of all targets share float32's samples, which are made once.
- A way that is behind the best one on the first half of the seeds gets no more of them (successive halving): it would
  have to be surely ahead on all.
- Thin convolutions are tried in float with the best method only.
- A way that makes the graph of an earlier one is left out.
- The graph that was tried is the one that is deployed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.choosing.evidence import beats, constant_share, is_behind
from fewstep.calibration.choosing.opened import open_lowered
from fewstep.calibration.count import batch_of
from fewstep.calibration.failed_bodies import Check, body_of
from fewstep.calibration.precision.variants import Variants
from fewstep.calibration.task import Task
from fewstep.graph.digest import digest
from fewstep.graph.graph import Graph
from fewstep.graph.io import exceeds
from fewstep.graph.weights import release
from fewstep.lowering.files import Files
from fewstep.lowering.quantize import Lowered, LoweredBody, as_it_is, completed, lower_graph
from fewstep.lowering.rounded import Rounded
from fewstep.lowering.scheme import Target
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.ranges.table import Method, RangesTable
from fewstep.rollouts.closed_loop import JUDGE_SEEDS, SELECTION_SEEDS, Course, open_each
from fewstep.rollouts.conditions_file import ConditionRecords
from fewstep.rollouts.on_demand import close
from fewstep.rollouts.row_by_row import body_by_rows, row_by_row
from fewstep.rollouts.trajectories import BATCH
from fewstep.runtime.bundle.manifest import Trial
from fewstep.runtime.execute import StepState, finish
from fewstep.runtime.progress import SILENT, Progress, under
from fewstep.runtime.sampler import Sampler

TRIED: tuple[Method, ...] = ("channels", "channels-balanced")  # the default first
CHOOSING = 8  # seeds that choose, in two halves; no more than there are trajectories
FEWEST = 4  # of these seeds: a half of one says nothing of its worse samples
FIRST = SELECTION_SEEDS.index(JUDGE_SEEDS.stop)  # precision maps have those before

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Chosen:
    """The body that won, what else its ranges can be lowered to, and all trials. A single way has no trial."""

    lowered: LoweredBody
    variants: Variants
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True)
class Way:
    """How a body may be calibrated: the method of its ranges, and the thin convolutions that stay in float."""

    ranges: Method
    in_float: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """What samples of a way are worth: their PSNR [seeds] in dB, and the share of the end error's energy that is one
    number for each channel."""

    way: Way
    psnr: Float
    shift: float

    @property
    def is_finite(self) -> bool:
        """False if a sample left the numbers on the way."""
        return bool(np.isfinite(self.psnr).all())

    def trial(self, is_chosen: bool) -> Trial:
        """The entry of the manifest, with digits that are more than noise."""
        mean, p5 = round(float(self.psnr.mean()), 2), round(float(np.percentile(self.psnr, 5)), 2)
        seeds, shift = len(self.psnr), round(self.shift, 3)
        return Trial(self.way.ranges, False, mean, p5, shift, seeds, is_chosen, self.way.in_float)


@dataclass(frozen=True)
class Candidates:
    """What bodies are lowered from: a ranges table for each method, the default first, and by the name of a target the
    thin convolutions that may stay in float. The weights of large bodies lie in `files`; None keeps them in memory."""

    tables: Mapping[Method, RangesTable]
    thin: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    files: Files | None = None

    def variants(self, prepared: Graph, target: Target) -> dict[Method, Variants]:
        keep = as_it_is if self.files is None else partial(self.files.keep, body_of(target))
        return {method: Variants(prepared, table, target, keep) for method, table in self.tables.items()}

    def has_trials(self, target: Target) -> bool:
        return len(self.tables) > 1 or bool(self.thin.get(target.name))


def halves(trajectories: int) -> tuple[range, ...]:
    """The seeds that choose, half by half."""
    seeds = SELECTION_SEEDS[FIRST:][: min(CHOOSING, trajectories)]
    first = -(-len(seeds) // 2)
    return (seeds[:first], seeds[first:])


def most_evaluations(ways: int, steps: int, trajectories: int) -> int:
    """How often the trials of one target evaluate its bodies for one sample, at most. float32's samples are not among
    them: targets share those."""
    return ways * steps * min(CHOOSING, trajectories)


def open_trials(
    sampler: Sampler, plan: Plan, trajectories: int, rows: ConditionRecords | None = None, progress: Progress = SILENT
) -> tuple[Course, ...]:
    """A course of each half of the seeds that choose, along a plan in the range groups of the bodies. `sampler` has the
    float32 body."""
    return open_each(sampler, plan, halves(trajectories), rows, progress)


def courses_for(
    task: Task, plan: Plan, targets: Sequence[Target], candidates: Candidates, progress: Progress = SILENT
) -> tuple[Course, ...]:
    """The courses that the trials of these targets share; none where no target has trials."""
    if not any(map(candidates.has_trials, targets)):
        return ()
    sampler = body_by_rows(task.sampler) if _is_large(task, candidates) else task.sampler  # as counting has them
    courses = open_trials(sampler, plan, len(task.seeds), task.conditions, under(progress, "trials"))
    close(task.sampler.denoiser)  # float32 and a large int8 body at once are too much
    return courses


def choose_each(
    task: Task,
    plan: Plan,
    targets: Sequence[Target],
    candidates: Candidates,
    courses: tuple[Course, ...],
    check: Check,
    failed: dict[str, UserError],
    progress: Progress = SILENT,
) -> dict[str, Chosen]:
    """The best body for each of a task's targets, by its name.

    Args:
        plan: in the range groups of the tables.
        courses: of `courses_for`.
        check: what each body has to pass.
        failed: receives the errors of bodies that cannot be made.

    UserError if no body can be made.
    """
    by_rows, chosen = _is_large(task, candidates), {}
    for done, target in enumerate(targets, 1):
        name, variants = body_of(target), candidates.variants(task.prepared, target)
        thin, own = candidates.thin.get(target.name, ()), courses if candidates.has_trials(target) else ()
        try:
            best = try_ways(variants, thin, own, under(progress, target.name), by_rows, candidates.files)
            check(name, best.lowered, target)
            chosen[name] = best
        except UserError as error:
            failed[name] = error
        progress("lowering", done, len(targets))
    if not chosen:
        raise next(iter(failed.values()))
    return chosen


def _is_large(task: Task, candidates: Candidates) -> bool:
    """Whether the activations of a sample are."""
    return batch_of(task, [*next(iter(candidates.tables.values())).tensors]) < BATCH


def try_ways(
    variants: Mapping[Method, Variants],
    thin: tuple[str, ...],
    courses: Sequence[Course],
    progress: Progress = SILENT,
    by_rows: bool = False,
    files: Files | None = None,
) -> Chosen:
    """The best method, or the best method with thin convolutions in float.

    Args:
        variants: by method, the default first.
        thin: the convolutions that are tried in float, if there are any.
        courses: what ways are tried on. Without courses the default method is taken.
        by_rows: a large body sees the samples of a course one by one.
        files: receive the weights of large bodies.

    UserError if samples of the best way are not finite.
    """
    if not courses:
        default = next(iter(variants.values()))
        return Chosen(default.lower(()), default)
    results: list[Result] = []
    graphs: set[bytes] = set()
    best: Result | None = None
    best_lowered: Lowered | None = None

    def ways() -> Iterator[Way]:
        yield from map(Way, variants)
        if thin and best is not None:
            yield Way(best.way.ranges, thin)

    with Rounded() if files is None else files.rounded() as rounded:
        for done, way in enumerate(ways(), 1):
            lowered = _lowered(way, variants[way.ranges], rounded, files)
            content = digest(lowered[0])
            release(lowered[0])  # whose weights were read for the digest
            if content not in graphs:
                graphs.add(content)
                results.append(_run(way, lowered[0], variants[way.ranges].target, courses, by_rows, best))
                if best is None or beats(results[-1].psnr, best.psnr):
                    best, best_lowered = results[-1], lowered
            del lowered  # two bodies at once are enough: the best one, and the next
            progress("ways tried", done, len(variants) + bool(thin))
    assert best is not None and best_lowered is not None, "the first way is the best so far"
    own = variants[best.way.ranges]
    if not best.is_finite:
        what = f"samples in int8 for {own.target.name} are not finite"
        raise UserError(what, "calibrate with other --ranges, or for another --target")
    body = completed(own.prepared, own.table, own.target, best_lowered, own.keep)
    trials = tuple(each.trial(each is best) for each in results if each.is_finite)
    if not best.way.in_float:
        return Chosen(body, replace(own, made=body), trials)
    count = len(best.way.in_float)
    note = f"{count} thin {'convolution stays' if count == 1 else 'convolutions stay'} in float"
    return Chosen(replace(body, notes=(*body.notes, note)), own, trials)


def _lowered(way: Way, variants: Variants, rounded: Rounded, files: Files | None) -> Lowered:
    """A graph to be tried. Large weights are mapped from files."""
    graph, ops, encodings = lower_graph(variants.prepared, variants.table, variants.target, way.in_float, rounded)
    return files.draft(graph) if files is not None and exceeds(graph) else graph, ops, encodings


def _run(
    way: Way, graph: Graph, target: Target, courses: Sequence[Course], by_rows: bool, best: Result | None
) -> Result:
    """Samples of a way, course by course, until it is behind the best."""
    network = open_lowered(graph, target)
    if by_rows:
        network = row_by_row(network, graph.inputs)
    psnr: list[Float] = []
    errors: list[Float] = []
    for course in courses:
        states = course.run([network] * course.groups)
        psnr.append(course.quality(states))
        errors.append(_end_error(course, states))
        if best is not None and is_behind(np.concatenate(psnr), best.psnr):
            break
    return Result(way, np.concatenate(psnr), constant_share(np.concatenate(errors)))


def _end_error(course: Course, states: Sequence[StepState]) -> Float:
    samples, exact = (finish(course.plan, each[-1:]).astype(np.float64) for each in (states, course.reference))
    error: Float = samples - exact
    return error
