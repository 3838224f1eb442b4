"""Optimize the coefficients and times of a plan so that its samples are as close as possible to the teacher's. All are
optimized jointly, and only final samples are compared."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice

from fewstep.fitting.blocks import Block, digest_block, is_continuous, make_blocks
from fewstep.fitting.checkpoint import FitCheckpoint, open_fit_checkpoint
from fewstep.fitting.feature_tradeoff import FeatureTradeoff, Trade
from fewstep.fitting.finite_differences import DIRECTIONS
from fewstep.fitting.free_numbers import Freedom, Number, free_numbers
from fewstep.fitting.jacobian import Jacobian, column_norms, join_jacobians
from fewstep.fitting.levenberg_marquardt import (
    RESTRAINTS,
    SECANTS,
    FitSeeds,
    Gain,
    Iterate,
    NominalPsnr,
    Refinement,
    refine,
)
from fewstep.fitting.recurrence import Recurrence, build_plan, extract_recurrence
from fewstep.fitting.rollouts import FitSampler
from fewstep.fitting.start_plans import find_best_on_path, find_best_start
from fewstep.fitting.task import FitTask
from fewstep.fitting.teacher_samples import add_teacher_samples, digest_sampler
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.seeds import CHOICE_SEEDS, FIT_SEEDS
from fewstep.plans.file import encode
from fewstep.plans.plan import Plan
from fewstep.runtime.progress import SILENT, Progress

HISTORY = 3  # the least number of predictions that a row can read
FIRST_BLOCKS = 2  # blocks for the comparison of start plans, and for the first columns
Iterations = Iterator[tuple[Iterate, ...]]  # the steps of each iteration
KINDS: tuple[Freedom, ...] = ("rows", "times", "lean")  # kinds of free numbers (fields of `Recurrence`)


@dataclass(frozen=True)
class SearchedNumbers:
    """The state of a search: its best coefficients and times so far, those from which it started (`origin`), and its
    seeds.

    nominal: the plan without fitted numbers, relative to which gains are measured.
    done: the number of steps that improved the result, including those before an interruption.
    trade: what the last stage gave up in PSNR for features; None before that stage.
    """

    numbers: Recurrence
    nominal: Plan
    origin: Recurrence
    seeds: FitSeeds
    nominal_psnr: NominalPsnr
    done: int
    free: tuple[Number, ...]
    trade: Trade | None = None


def search(task: FitTask, progress: Progress = SILENT) -> Iterator[SearchedNumbers]:
    """Yield the coefficients and times from which a fit starts, then increasingly better ones, and finally those after
    the trade between PSNR and features.

    A checkpoint stores the best ones, from which an interrupted search resumes. The caller removes the checkpoint.
    """
    conditions = task.conditions
    seeds = FitSeeds(
        sample_teacher_blocks(task, FIT_SEEDS[: task.seeds], conditions.fit, "teacher of the fit", progress),
        sample_teacher_blocks(
            task, CHOICE_SEEDS[: task.selection_seeds], conditions.selection, "teacher of the choice", progress
        ),
    )
    best, iterations = _choose_start(task, seeds, progress)
    yield best
    checkpoint, most = open_search_checkpoint(task, best), best.done + task.iterations * (1 + SECANTS)
    for iterate in chain.from_iterable(islice(iterations, task.iterations)):
        best = replace(best, numbers=iterate.numbers, done=best.done + 1)
        checkpoint.save(best.numbers, best.done)
        progress(f"steps so far, the gain is {iterate.on_selection.mean:.2f} dB", best.done, most)
        yield best
    if best.done > 0 or task.iterations == 0:
        numbers, trade = FeatureTradeoff(_make_refinement(task, best, best.numbers, progress), task.extractor).trade()
        yield replace(best, numbers=numbers, trade=trade)


def _choose_start(task: FitTask, seeds: FitSeeds, progress: Progress) -> tuple[SearchedNumbers, Iterations]:
    """Return the coefficients and times from which the fit starts, and the iterator over the iterations of the fit.

    If the caller named a plan, the fit starts from that plan. Otherwise two plans compete: the best nominal plan, and
    the best plan with times from the teacher's path. If a fit from one of them was interrupted, that fit is resumed. If
    not, the plan with the higher gain after one iteration is used: the better plan of the two does not always lead to
    the better fit.
    """
    rolled, starts = task.rolled, task.starts
    blocks = seeds.selection[:FIRST_BLOCKS]  # earlier fits have used the seeds of the fit
    nominal = find_best_start(rolled, starts.nominal, blocks, progress)
    nominal_psnr = NominalPsnr(rolled.measure_psnr(nominal, seeds.fit), rolled.measure_psnr(nominal, seeds.selection))

    def numbers_of(start: Plan) -> SearchedNumbers:
        """Return the numbers of a plan before any step."""
        origin = extract_recurrence(start, HISTORY)
        takes_any = is_continuous(task.rolled.sampler, origin.nominal, seeds.fit[0])
        kinds = KINDS if takes_any else tuple(kind for kind in KINDS if kind != "times")
        free = free_numbers(origin, column_norms(task.rolled.sampler, origin, seeds.fit[:FIRST_BLOCKS]), kinds)
        return SearchedNumbers(origin, nominal, origin, seeds, nominal_psnr, 0, free)

    known, on_path = numbers_of(nominal if starts.request is None else starts.request), None
    if starts.path_solvers and not open_search_checkpoint(task, known).is_saved:
        on_path = find_best_on_path(rolled, task.teacher, nominal, seeds.fit[:FIRST_BLOCKS], blocks)
    if on_path is None:
        return _resume_search(task, known, progress)
    other = numbers_of(on_path)
    if open_search_checkpoint(task, other).is_saved:
        return _resume_search(task, other, progress)
    tried = []
    for start in (known, other):
        best, iterations = _resume_search(task, start, progress)
        first = next(iterations, ())
        before = Gain.from_psnr(rolled.measure_psnr(build_plan(start.origin), seeds.selection), nominal_psnr.selection)
        gain = max((candidate.on_selection.mean for candidate in first), default=before.mean)
        tried.append((gain, best, chain([first], iterations)))
    _, best, iterations = max(tried, key=lambda each: each[0])
    return best, iterations


def _resume_search(task: FitTask, start: SearchedNumbers, progress: Progress) -> tuple[SearchedNumbers, Iterations]:
    """Return `start` with the coefficients and times stored in the checkpoint, if there is one, and an iterator over
    the remaining iterations (at least one)."""
    numbers, done = open_search_checkpoint(task, start).load(start.origin)
    measured = FIRST_BLOCKS if done == 0 else len(start.seeds.fit)
    work = _make_refinement(task, start, start.origin, progress)
    return replace(start, numbers=numbers, done=done), refine(work, numbers, max(1, task.iterations), measured)


def _make_refinement(task: FitTask, start: SearchedNumbers, anchor: Recurrence, progress: Progress) -> Refinement:
    measure = partial(_measure_columns, task.rolled, start.free, progress)
    return Refinement(task.rolled, anchor, start.free, start.seeds, start.nominal_psnr, measure)


def sample_teacher_blocks(
    task: FitTask, seeds: range, records: ConditionRecords | None, stage: str, progress: Progress
) -> tuple[Block, ...]:
    """Return blocks of these seeds with the teacher's samples."""
    return add_teacher_samples(
        task.rolled, task.teacher, make_blocks(task.rolled.reference, seeds, records), stage, progress
    )


def open_search_checkpoint(task: FitTask, searched: SearchedNumbers) -> FitCheckpoint:
    """Return the checkpoint of a search. The start plan, the seeds and all settings of the search identify it."""
    return open_fit_checkpoint(
        digest_sampler(task.rolled.sampler),
        digest_sampler(task.rolled.reference),
        encode(searched.origin.nominal),
        encode(searched.nominal),
        encode(task.teacher),
        repr((KINDS, HISTORY, RESTRAINTS, DIRECTIONS, task.starts.path_solvers)).encode(),
        *(digest_block(block) for block in (*searched.seeds.fit, *searched.seeds.selection)),
    )


def _measure_columns(
    rolled: FitSampler, free: tuple[Number, ...], progress: Progress, numbers: Recurrence, blocks: tuple[Block, ...]
) -> Jacobian:
    """Return the Jacobian of the samples of some blocks with respect to the free coefficients and times."""
    parts = []
    for part in rolled.measure_columns(numbers, free, blocks):
        parts.append(part)
        progress("columns", len(parts), len(blocks))
    return join_jacobians(parts)
