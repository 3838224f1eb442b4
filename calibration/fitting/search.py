"""The search of the best numbers of a plan for a body: all of them together, by the sample at the end."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice

from fewstep.calibration.fitting.blocks import Block, blocks_of, digest
from fewstep.calibration.fitting.checkpoint import FitCheckpoint, checkpoint_of
from fewstep.calibration.fitting.endpoint import (
    RESTRAINTS,
    SECANTS,
    FitSeeds,
    Gain,
    Iterate,
    NominalPsnr,
    Refinement,
    refine,
)
from fewstep.calibration.fitting.free import Freedom, Number, free_numbers, is_continuous
from fewstep.calibration.fitting.jacobian import Jacobian, join, norms
from fewstep.calibration.fitting.recurrence import Recurrence, plan_of, recurrence_of
from fewstep.calibration.fitting.rollouts import Rollouts
from fewstep.calibration.fitting.start import best_on_path, best_start
from fewstep.calibration.fitting.tangents import DIRECTIONS
from fewstep.calibration.fitting.task import FitTask
from fewstep.calibration.fitting.taught import identity, taught
from fewstep.calibration.fitting.trade import Trade, Trader
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.seeds import CHOICE_SEEDS, FIT_SEEDS
from fewstep.plans.file import encode
from fewstep.plans.plan import Plan
from fewstep.runtime.progress import SILENT, Progress

HISTORY = 3  # predictions that a row reads at least
FIRST_BLOCKS = 2  # blocks that the plans to begin at are compared on, and that the first columns are measured on
Iterations = Iterator[tuple[Iterate, ...]]  # the steps of each
KINDS: tuple[Freedom, ...] = ("rows", "times", "lean")  # of free numbers (`recurrence.py`)


@dataclass(frozen=True)
class SearchedNumbers:
    """The best numbers so far, and the origin that the fit began at, with its seeds.

    nominal: the plan without fitted numbers that gains are over.
    done: how many steps gained, also before an interruption.
    trade: what the last numbers gave up, and what for; None where no trade was made yet.
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
    """The numbers that a fit begins at, then better and better ones, and at last the numbers of the trade.

    A checkpoint keeps the best, so that an interrupted search goes on from there. The caller drops the checkpoint.
    """
    conditions = task.conditions
    seeds = FitSeeds(
        taught_blocks(task, FIT_SEEDS[: task.seeds], conditions.fit, "teacher of the fit", progress),
        taught_blocks(
            task, CHOICE_SEEDS[: task.selection_seeds], conditions.selection, "teacher of the choice", progress
        ),
    )
    best, iterations = _beginning(task, seeds, progress)
    yield best
    checkpoint, most = checkpoint_of_search(task, best), best.done + task.iterations * (1 + SECANTS)
    for iterate in chain.from_iterable(islice(iterations, task.iterations)):
        best = replace(best, numbers=iterate.numbers, done=best.done + 1)
        checkpoint.save(best.numbers, best.done)
        progress(f"steps so far, the gain is {iterate.on_selection.mean:.2f} dB", best.done, most)
        yield best
    if best.done > 0 or task.iterations == 0:
        numbers, trade = Trader(_refinement(task, best, best.numbers, progress), task.extractor).trade()
        yield replace(best, numbers=numbers, trade=trade)


def _beginning(task: FitTask, seeds: FitSeeds, progress: Progress) -> tuple[SearchedNumbers, Iterations]:
    """The numbers that the fit begins at, and their iterations.

    They are of the plan that was asked for. Without one, the best nominal plan competes with the best over the
    times of the teacher's path. The one whose fit was interrupted goes on, else the one that gains more by an
    iteration. Optima lie far apart, and plans do not rank as their optima do.
    """
    rolled, starts = task.rolled, task.starts
    blocks = seeds.selection[:FIRST_BLOCKS]  # earlier fits have seen the seeds of the fit
    nominal = best_start(rolled, starts.nominal, blocks, progress)
    nominal_psnr = NominalPsnr(rolled.qualities(nominal, seeds.fit), rolled.qualities(nominal, seeds.selection))

    def numbers_of(start: Plan) -> SearchedNumbers:
        """A plan's own numbers, before any step."""
        origin = recurrence_of(start, HISTORY)
        takes_any = is_continuous(task.sampler, origin.nominal, seeds.fit[0])
        kinds = KINDS if takes_any else tuple(kind for kind in KINDS if kind != "times")
        free = free_numbers(origin, norms(task.sampler, origin, seeds.fit[:FIRST_BLOCKS]), kinds)
        return SearchedNumbers(origin, nominal, origin, seeds, nominal_psnr, 0, free)

    known, on_path = numbers_of(nominal if starts.request is None else starts.request), None
    if starts.on_path and not checkpoint_of_search(task, known).is_saved:
        on_path = best_on_path(rolled, task.teacher, nominal, seeds.fit[:FIRST_BLOCKS], blocks)
    if on_path is None:
        return _begun(task, known, progress)
    other = numbers_of(on_path)
    if checkpoint_of_search(task, other).is_saved:
        return _begun(task, other, progress)
    tried = []
    for start in (known, other):
        best, iterations = _begun(task, start, progress)
        first = next(iterations, ())
        before = Gain.of(rolled.qualities(plan_of(start.origin), seeds.selection), nominal_psnr.selection)
        gain = max((each.on_selection.mean for each in first), default=before.mean)
        tried.append((gain, best, chain([first], iterations)))
    _, best, iterations = max(tried, key=lambda each: each[0])
    return best, iterations


def _begun(task: FitTask, start: SearchedNumbers, progress: Progress) -> tuple[SearchedNumbers, Iterations]:
    """The start with the checkpoint's numbers, if there are some, and the iterations from there: one at least."""
    numbers, done = checkpoint_of_search(task, start).load(start.origin)
    measured = FIRST_BLOCKS if done == 0 else len(start.seeds.fit)
    work = _refinement(task, start, start.origin, progress)
    return replace(start, numbers=numbers, done=done), refine(work, numbers, max(1, task.iterations), measured)


def _refinement(task: FitTask, start: SearchedNumbers, anchor: Recurrence, progress: Progress) -> Refinement:
    measure = partial(_columns, task.rolled, start.free, progress)
    return Refinement(task.rolled, anchor, start.free, start.seeds, start.nominal_psnr, measure)


def taught_blocks(
    task: FitTask, seeds: range, records: ConditionRecords | None, stage: str, progress: Progress
) -> tuple[Block, ...]:
    """Blocks of these seeds with the teacher's samples."""
    return taught(task.rolled, task.teacher, blocks_of(task.reference, seeds, records), stage, progress)


def checkpoint_of_search(task: FitTask, searched: SearchedNumbers) -> FitCheckpoint:
    """The checkpoint of a search by its origin and its seeds."""
    return checkpoint_of(
        identity(task.sampler),
        identity(task.reference),
        encode(searched.origin.nominal),
        encode(searched.nominal),
        encode(task.teacher),
        repr((KINDS, HISTORY, RESTRAINTS, DIRECTIONS, task.starts.on_path)).encode(),
        *(digest(block) for block in (*searched.seeds.fit, *searched.seeds.selection)),
    )


def _columns(
    rolled: Rollouts, free: tuple[Number, ...], progress: Progress, numbers: Recurrence, blocks: tuple[Block, ...]
) -> Jacobian:
    """The columns of all free numbers on some blocks."""
    parts = []
    for part in rolled.columns(numbers, free, blocks):
        parts.append(part)
        progress("columns", len(parts), len(blocks))
    return join(parts)
