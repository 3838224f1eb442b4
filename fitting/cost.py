"""What a fit will cost, told before it begins."""

from time import perf_counter

from fewstep.fitting.blocks import BLOCK, FIT_SEEDS, blocks_of, sample
from fewstep.fitting.endpoint import RESTRAINTS, SECANTS
from fewstep.fitting.options import FitOptions
from fewstep.fitting.search import BEGIN, HISTORY, STAGES
from fewstep.fitting.task import FitTask


def evaluations(task: FitTask, options: FitOptions) -> tuple[int, int]:
    """The most evaluations of one sample: of the body, and of the float32 body by the teacher."""
    steps, seeds, choices, judges = options.steps, options.seeds, options.selection_seeds, options.judge_seeds
    left = [steps - 1 - i for i in range(steps)]  # evaluations behind a step
    rows = sum(min(i + 2, HISTORY + 1) * count for i, count in enumerate(left))
    told = sum(count + 1 for count in left)
    trials = len(RESTRAINTS) * choices * steps + (seeds + choices) * steps
    stages = [rows + told] if task.guidance is None else [rows + told, rows + told + sum(left)]
    assert len(stages) <= len(STAGES)
    body = sum(options.iterations * (seeds * (columns + steps) + (1 + SECANTS) * trials) for columns in stages)
    body += (len(task.starts) * BEGIN * BLOCK + seeds + choices + 2 * judges) * steps
    return body, (seeds + choices + judges) * len(task.teacher.steps)


def seconds(task: FitTask, options: FitOptions) -> float:
    """How long that takes at the speed of this moment, measured on one block."""
    body, teacher = evaluations(task, options)
    own = _seconds_of_one(task, is_teacher=False)
    taught = own if task.sampler is task.reference else _seconds_of_one(task, is_teacher=True)
    return body * own + teacher * taught


def _seconds_of_one(task: FitTask, is_teacher: bool) -> float:
    """Seconds of one evaluation of one sample."""
    sampler = task.reference if is_teacher else task.sampler
    (block,) = blocks_of(sampler, FIT_SEEDS[:BLOCK], task.rows.fit)
    plan = task.starts[0]
    sample(sampler, plan, block)  # engines are slow at their first call
    started = perf_counter()
    sample(sampler, plan, block)
    return (perf_counter() - started) / BLOCK / len(plan.steps)
