"""Search the best numbers of a plan for a body: all of them together, by the sample at the end."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from fewstep.fitting import teacher as teaching
from fewstep.fitting.blocks import CHOICE_SEEDS, FIT_SEEDS, Block, blocks_of, digest
from fewstep.fitting.checkpoint import Checkpoint, checkpoint_of
from fewstep.fitting.continuous import is_continuous
from fewstep.fitting.ending.energy import Energy, energy_of, scaled
from fewstep.fitting.ending.residual import FeatureResidual, feature_residual
from fewstep.fitting.ending.step_back import StepBack, between, step_back
from fewstep.fitting.endpoint import RESTRAINTS, SECANTS, Nominal, Refinement, Seeds, refine
from fewstep.fitting.free import Kind, Number, free_numbers
from fewstep.fitting.options import FitOptions
from fewstep.fitting.recurrence import Recurrence, recurrence_of
from fewstep.fitting.rollouts import Rollouts
from fewstep.fitting.sensitivity import Sensitivity, join, norms
from fewstep.fitting.start import best_start
from fewstep.fitting.tangents import DIRECTIONS
from fewstep.fitting.task import FitTask
from fewstep.plans.file import encode
from fewstep.plans.plan import Plan
from fewstep.rollouts.conditions_file import ConditionRecords
from fewstep.runtime.progress import SILENT, Progress

HISTORY = 3  # predictions that a row reads
BEGIN = 2  # blocks that nominal plans are compared on, and that the first columns are measured on
KINDS: dict[str, tuple[Kind, ...]] = {"end": ("rows", "told", "lean"), "rows": ("rows",)}


@dataclass(frozen=True)
class Found:
    """The best numbers, and those that the fit began at, with its seeds.

    `done` counts the iterations that gained. `nominal` is the plan without fitted numbers that gains are over. `back`,
    `residual` and `energy` are of the last stages of `end`; None before them.
    """

    numbers: Recurrence
    nominal: Plan
    origin: Recurrence
    seeds: Seeds
    before: Nominal
    done: int
    free: tuple[Number, ...]
    back: StepBack | None = None
    residual: FeatureResidual | None = None
    energy: Energy | None = None

    @property
    def price(self) -> float:
        """What the stages for features cost, in dB of the mean PSNR on the selection seeds."""
        return sum(each.price for each in (self.back, self.residual) if each is not None)


def search(task: FitTask, options: FitOptions, progress: Progress = SILENT) -> Iterator[Found]:
    """The numbers that a fit begins at, then better and better ones. Each is kept, so that an interrupted search goes
    on from its best; its caller drops the checkpoint. The last ones of `end` step back for features where an extractor
    knows the data, come near to features and pixels at once, and have the teacher's energy, each at its price.
    """
    rolled = task.rolled
    seeds = Seeds(
        taught(task, FIT_SEEDS[: options.seeds], task.rows.fit, "teacher of the fit", progress),
        taught(task, CHOICE_SEEDS[: options.selection_seeds], task.rows.selection, "teacher of the choice", progress),
    )
    starts, blocks = task.starts, seeds.selection[:BEGIN]  # earlier fits have seen the seeds of the fit
    nominal = best_start(rolled, starts.nominal, blocks, progress)
    begun = starts.fitted[0] if starts.is_asked else best_start(rolled, (nominal, *starts.fitted), blocks, progress)
    before = Nominal(*(rolled.qualities(nominal, blocks) for blocks in (seeds.fit, seeds.selection)))
    origin = recurrence_of(begun, HISTORY)
    found = Found(origin, nominal, origin, seeds, before, 0, ())
    for best in _by_refinement(task, options, found, progress):
        yield best
    if options.method == "end" and (best.done > 0 or options.iterations == 0):
        if task.extractor is not None:
            back = step_back(rolled, best.numbers, origin, seeds.selection, before.selection, task.extractor)
            best = replace(best, numbers=between(origin, best.numbers, back.share, back.lean), back=back)
            yield best
            measure = partial(_columns, rolled, best.free, progress)
            work = Refinement(rolled, best.numbers, best.free, seeds, before, measure)
            numbers, residual = feature_residual(work, task.extractor)
            best = replace(best, numbers=numbers, residual=residual)
            yield best
        energy = energy_of(rolled, best.numbers, seeds, before)
        if energy is not None:
            yield replace(best, numbers=scaled(best.numbers, energy.taken), energy=energy)


def _by_refinement(task: FitTask, options: FitOptions, found: Found, progress: Progress) -> Iterator[Found]:
    """All numbers of some kinds together, by damped least squares on the end."""
    sampler, origin, seeds = task.sampler, found.origin, found.seeds
    checkpoint = checkpoint_of_search(task, options, found)
    best, done = checkpoint.load(origin)
    kinds = KINDS[options.method]
    if not is_continuous(sampler, origin.nominal, seeds.fit[0]):
        kinds = tuple(kind for kind in kinds if kind != "told")
    free = free_numbers(origin, norms(sampler, origin, seeds.fit[:BEGIN]), kinds)
    yield replace(found, numbers=best, done=done, free=free)
    most = done + options.iterations * (1 + SECANTS)
    work = Refinement(task.rolled, origin, free, seeds, found.before, partial(_columns, task.rolled, free, progress))
    for iterate in refine(work, best, options.iterations, BEGIN if done == 0 else len(seeds.fit)):
        best, done = iterate.numbers, done + 1
        checkpoint.save(best, done)
        progress(f"steps so far, the gain is {iterate.on_selection.mean:.2f} dB", done, most)
        yield replace(found, numbers=best, done=done, free=free)


def taught(
    task: FitTask, seeds: range, rows: ConditionRecords | None, stage: str, progress: Progress
) -> tuple[Block, ...]:
    """Blocks of these seeds with the teacher's samples."""
    return teaching.taught(task.rolled, task.teacher, blocks_of(task.reference, seeds, rows), stage, progress)


def checkpoint_of_search(task: FitTask, options: FitOptions, found: Found) -> Checkpoint:
    """Where the best numbers of this search are kept."""
    return checkpoint_of(
        teaching.identity(task.sampler),
        teaching.identity(task.reference),
        encode(found.origin.nominal),
        encode(found.nominal),
        encode(task.teacher),
        repr((options.method, KINDS, HISTORY, RESTRAINTS, DIRECTIONS)).encode(),
        *(digest(block) for block in (*found.seeds.fit, *found.seeds.selection)),
    )


def _columns(
    rolled: Rollouts, free: tuple[Number, ...], progress: Progress, numbers: Recurrence, blocks: tuple[Block, ...]
) -> Sensitivity:
    """The columns of all free numbers on some blocks."""
    parts = []
    for part in rolled.columns(numbers, free, blocks):
        parts.append(part)
        progress("columns", len(parts), len(blocks))
    return join(parts)
