"""Search the best numbers of a plan for a body, all kinds of them together."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from fewstep.calibration.conditions_file import ConditionRecords
from fewstep.fitting import teacher as teaching
from fewstep.fitting.blocks import CHOICE_SEEDS, FIT_SEEDS, Block, blocks_of, qualities
from fewstep.fitting.checkpoint import Checkpoint, checkpoint_of
from fewstep.fitting.continuous import is_continuous
from fewstep.fitting.endpoint import RESTRAINTS, SECANTS, Nominal, Refinement, Seeds, refine
from fewstep.fitting.free import Kind, Number, free_numbers
from fewstep.fitting.options import FitOptions
from fewstep.fitting.recurrence import Recurrence, recurrence_of
from fewstep.fitting.sensitivity import Sensitivity, join, norms
from fewstep.fitting.start import best_start
from fewstep.fitting.tangents import DIRECTIONS, sensitivity
from fewstep.fitting.task import FitTask
from fewstep.plans.file import encode
from fewstep.plans.plan import Plan
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampler import Sampler

HISTORY = 3  # predictions that a row reads
BEGIN = 2  # blocks that nominal plans are compared on, and that the first columns are measured on
KINDS: tuple[Kind, ...] = ("rows", "told", "lean")


@dataclass(frozen=True)
class Found:
    """The best numbers, and those that the fit began at, with its seeds. `done` counts the iterations that gained;
    `nominal` is the plan without fitted numbers that gains are over."""

    numbers: Recurrence
    nominal: Plan
    origin: Recurrence
    seeds: Seeds
    before: Nominal
    done: int
    free: tuple[Number, ...]


def search(task: FitTask, options: FitOptions, progress: Progress = SILENT) -> Iterator[Found]:
    """The numbers that a fit begins at, then better and better ones. Each is kept, so that an interrupted search goes
    on from its best; its caller drops the checkpoint."""
    sampler = task.sampler
    seeds = Seeds(
        taught(task, FIT_SEEDS[: options.seeds], task.rows.fit, "teacher of the fit", progress),
        taught(task, CHOICE_SEEDS[: options.selection_seeds], task.rows.selection, "teacher of the choice", progress),
    )
    begun = best_start(sampler, [start.plan for start in task.starts], seeds.fit[:BEGIN], progress)
    origin = recurrence_of(begun, HISTORY)
    nominal = next(start.nominal for start in task.starts if start.plan is begun)
    before = Nominal(*(qualities(sampler, nominal, blocks) for blocks in (seeds.fit, seeds.selection)))
    checkpoint = checkpoint_of_search(task, nominal, origin, seeds)
    best, done = checkpoint.load(origin)
    sizes = norms(sampler, origin, seeds.fit[:BEGIN])
    knows_times = is_continuous(sampler, begun, seeds.fit[0])
    free = free_numbers(origin, sizes, [kind for kind in KINDS if kind != "told" or knows_times])
    yield Found(best, nominal, origin, seeds, before, done, free)
    most = options.iterations * (1 + SECANTS)
    work = Refinement(sampler, origin, free, seeds, before, partial(_columns, sampler, free, progress))
    for iterate in refine(work, best, options.iterations, BEGIN if done == 0 else len(seeds.fit)):
        best, done = iterate.numbers, done + 1
        checkpoint.save(best, done)
        progress(f"steps so far, the gain is {iterate.on_selection.mean:.2f} dB", done, most)
        yield Found(best, nominal, origin, seeds, before, done, free)


def taught(
    task: FitTask, seeds: range, rows: ConditionRecords | None, stage: str, progress: Progress
) -> tuple[Block, ...]:
    """Blocks of these seeds with the teacher's samples."""
    return teaching.taught(task.reference, task.teacher, blocks_of(task.reference, seeds, rows), stage, progress)


def checkpoint_of_search(task: FitTask, nominal: Plan, origin: Recurrence, seeds: Seeds) -> Checkpoint:
    """Where the best numbers of this search are kept."""
    return checkpoint_of(
        teaching.identity(task.sampler),
        teaching.identity(task.reference),
        encode(origin.nominal),
        encode(nominal),
        encode(task.teacher),
        repr((KINDS, HISTORY, RESTRAINTS, DIRECTIONS)).encode(),
        *(teaching.digest(block) for block in (*seeds.fit, *seeds.selection)),
    )


def _columns(
    sampler: Sampler, free: tuple[Number, ...], progress: Progress, numbers: Recurrence, blocks: tuple[Block, ...]
) -> Sensitivity:
    """The columns of all free numbers on some blocks."""
    parts = []
    for block in blocks:
        parts.append(sensitivity(sampler, numbers, free, block))
        progress("columns", len(parts), len(blocks))
    return join(parts)


def rows_alone(found: Found) -> Recurrence:
    """The found rows with the nominal told times and weights."""
    return replace(found.numbers, told=found.origin.told, lean=found.origin.lean)
