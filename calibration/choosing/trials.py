"""Try methods of ranges in the closed loop, and keep the best for each body.

Which ranges are best depends on the denoiser. Errors of single tensors or steps do not show it: clipping can lower
each of them, and its errors still add up over the plan. So each method lowers the body, and the body makes samples.

- All methods and targets share float32's samples, which are made once.
- A method that is behind the best one on the first half of the seeds gets no more of them (successive halving). To win
  it would have to be surely ahead on all seeds.
- A method whose graph equals an earlier method's is not tried.
- The graph that was tried is the one that is deployed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.choosing.evidence import beats, is_behind
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
from fewstep.runtime.progress import SILENT, Progress, under
from fewstep.runtime.sampler import Sampler

TRIED: tuple[Method, ...] = ("channels", "channels-balanced")  # the default first
CHOOSING = 8  # seeds that choose, in two halves; fewer where there are fewer trajectories
FEWEST = 4  # trajectories, and so seeds, of a trial: half of fewer is one seed, which has no worse half
FIRST = SELECTION_SEEDS.index(JUDGE_SEEDS.stop)  # the index of the first seed that no precision map uses

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Chosen:
    """The body that won, and all trials; a single method has none. A precision map lowers `variants` of its ranges."""

    lowered: LoweredBody
    variants: Variants
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True)
class Result:
    """What a method of ranges gave. psnr: of its samples [seeds] in dB, against float32's."""

    method: Method
    psnr: Float

    @property
    def is_finite(self) -> bool:
        """Whether all samples are numbers."""
        return bool(np.isfinite(self.psnr).all())

    def trial(self, is_chosen: bool) -> Trial:
        """The entry of the manifest, rounded: further digits are noise."""
        mean, p5 = round(float(self.psnr.mean()), 2), round(float(np.percentile(self.psnr, 5)), 2)
        return Trial(self.method, mean, p5, len(self.psnr), is_chosen)


@dataclass(frozen=True)
class Candidates:
    """The ranges table of each method, the default first. The weights of large bodies lie in `files`; None keeps them
    in memory."""

    tables: Mapping[Method, RangesTable]
    files: Files | None = None

    def variants(self, prepared: Graph, target: Target) -> dict[Method, Variants]:
        keep = as_it_is if self.files is None else partial(self.files.keep, body_of(target))
        return {method: Variants(prepared, table, target, keep) for method, table in self.tables.items()}


def halves(trajectories: int) -> tuple[range, ...]:
    """The seeds that choose, half by half."""
    seeds = SELECTION_SEEDS[FIRST:][: min(CHOOSING, trajectories)]
    first = -(-len(seeds) // 2)
    return (seeds[:first], seeds[first:])


def most_evaluations(methods: int, steps: int, trajectories: int) -> int:
    """The most evaluations of one sample that the trials of a target take. Targets share float32's samples, which are
    not among them."""
    return methods * steps * min(CHOOSING, trajectories)


def open_trials(
    sampler: Sampler, plan: Plan, trajectories: int, rows: ConditionRecords | None = None, progress: Progress = SILENT
) -> tuple[Course, ...]:
    """A course of each half of the seeds that choose, along a plan in the range groups of the bodies. `sampler` has the
    float32 body."""
    return open_each(sampler, plan, halves(trajectories), rows, progress)


def courses_for(task: Task, plan: Plan, candidates: Candidates, progress: Progress = SILENT) -> tuple[Course, ...]:
    """The courses that the trials of all targets share; none for a single method."""
    if len(candidates.tables) == 1:
        return ()
    sampler = body_by_rows(task.sampler) if _is_large(task, candidates) else task.sampler  # as in counting
    courses = open_trials(sampler, plan, len(task.seeds), task.conditions, under(progress, "trials"))
    close(task.sampler.denoiser)  # memory may not hold float32 and an int8 body at once
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
        try:
            best = try_methods(variants, courses, under(progress, target.name), by_rows, candidates.files)
            check(name, best.lowered, target)
            chosen[name] = best
        except UserError as error:
            failed[name] = error
        progress("lowering", done, len(targets))
    if not chosen:
        raise next(iter(failed.values()))
    return chosen


def _is_large(task: Task, candidates: Candidates) -> bool:
    """Whether the activations of BATCH samples are too large to run at once."""
    return batch_of(task, [*next(iter(candidates.tables.values())).tensors]) < BATCH


def try_methods(
    variants: Mapping[Method, Variants],
    courses: Sequence[Course],
    progress: Progress = SILENT,
    by_rows: bool = False,
    files: Files | None = None,
) -> Chosen:
    """The body of the best method.

    Args:
        variants: by method, the default first.
        courses: the seeds that choose, half by half. Without courses the default is taken.
        by_rows: whether the body sees the samples of a course one by one.
        files: receive the weights of large bodies.

    UserError if samples of the best method are not finite.
    """
    if not courses:
        default = next(iter(variants.values()))
        return Chosen(default.lower(()), default)
    results: list[Result] = []
    graphs: set[bytes] = set()
    best: Result | None = None
    best_lowered: Lowered | None = None
    with Rounded() if files is None else files.rounded() as rounded:
        for done, (method, each) in enumerate(variants.items(), 1):
            lowered = _lowered(each, rounded, files)
            content = digest(lowered[0])
            release(lowered[0])  # the digest has read its weights into memory
            if content not in graphs:
                graphs.add(content)
                results.append(_run(method, lowered[0], each.target, courses, by_rows, best))
                if best is None or beats(results[-1].psnr, best.psnr):
                    best, best_lowered = results[-1], lowered
            del lowered  # two bodies at once are enough: the best one, and the next
            progress("methods tried", done, len(variants))
    assert best is not None and best_lowered is not None, "the first method is the best so far"
    own = variants[best.method]
    if not best.is_finite:
        what = f"samples in int8 for {own.target.name} are not finite"
        raise UserError(what, "calibrate with other --ranges, or for another --target")
    body = completed(own.prepared, own.table, own.target, best_lowered, own.keep)
    trials = tuple(each.trial(each is best) for each in results if each.is_finite)  # a NaN has no place in JSON
    return Chosen(body, replace(own, body=body), trials)


def _lowered(variants: Variants, rounded: Rounded, files: Files | None) -> Lowered:
    """A graph to be tried. Large weights are mapped from files."""
    graph, ops, encodings = lower_graph(variants.prepared, variants.table, variants.target, rounded=rounded)
    return files.draft(graph) if files is not None and exceeds(graph) else graph, ops, encodings


def _run(
    method: Method, graph: Graph, target: Target, courses: Sequence[Course], by_rows: bool, best: Result | None
) -> Result:
    """The result of a body, which runs course by course until it is behind the best."""
    network = open_lowered(graph, target)
    if by_rows:
        network = row_by_row(network, graph.inputs)
    psnr: list[Float] = []
    for course in courses:
        psnr.append(course.quality(course.run([network] * course.groups)))
        if best is not None and is_behind(np.concatenate(psnr), best.psnr):
            break
    return Result(method, np.concatenate(psnr))
