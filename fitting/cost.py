"""What a fit will cost, told before it begins."""

from time import perf_counter

from fewstep.evaluation.teacher import CHECKED
from fewstep.fitting.blocks import BLOCK, FIT_SEEDS, blocks_of, sample
from fewstep.fitting.endpoint import RESTRAINTS, SECANTS
from fewstep.fitting.options import FitOptions
from fewstep.fitting.search import BEGIN, HISTORY
from fewstep.fitting.tangents import calls
from fewstep.fitting.task import FitTask

CHECKS = 2  # of the teacher: beside a plan to begin at, and beside the best


def evaluations(task: FitTask, options: FitOptions) -> tuple[int, int]:
    """The most evaluations of one sample: of the body, and of the float32 body by the teacher and its checks, if the
    first teacher suffices."""
    steps, seeds, choices, judges = options.steps, options.seeds, options.selection_seeds, options.judge_seeds
    given = max(len(start.plan.given) for start in task.starts)
    own = 1 + (task.guidance is not None) + given  # the told time, the lean and the given tensors of a step
    numbers = [own + min(i + 2, HISTORY + 1) for i in range(steps)]
    # a candidate that is overfitted is judged on the seeds of the fit, and the next one
    trials = len(RESTRAINTS) * (seeds + choices) * steps
    body = options.iterations * (seeds * calls(numbers) + (1 + SECANTS) * trials)
    body += 2 * (seeds + choices) * steps  # the nominal plan, and where the fit begins
    body += (len(task.starts) + 1) * BEGIN * BLOCK * steps + 2 * BLOCK  # starts, norms; are times continuous?
    body += (seeds + choices) * steps + 3 * judges * steps  # the end: of the nominal, the fitted and a former plan
    long = len(task.teacher.steps)
    followed = seeds * long if options.method == "olss" else 0  # the teacher's states
    return body, followed + (seeds + choices + judges) * long + CHECKS * CHECKED * (steps + 3 * long)


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
    plan = task.starts[0].plan
    sample(sampler, plan, block)  # engines are slow at their first call
    started = perf_counter()
    sample(sampler, plan, block)
    return (perf_counter() - started) / BLOCK / len(plan.steps)
