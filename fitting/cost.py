"""Estimate the cost of a fit before it begins."""

from math import prod

from fewstep.fitting.blocks import BLOCK
from fewstep.fitting.feature_tradeoff import SHARES, WEIGHTS
from fewstep.fitting.finite_differences import count_calls
from fewstep.fitting.levenberg_marquardt import RESTRAINTS, SECANTS
from fewstep.fitting.search import FIRST_BLOCKS, HISTORY
from fewstep.fitting.task import FitTask
from fewstep.fitting.teacher_path import path_bytes
from fewstep.measure.estimate import Estimate, seconds_per_evaluation
from fewstep.measure.rollouts.seeds import FIT_SEEDS
from fewstep.measure.teacher import CHECK_SEEDS


def count_evaluations(task: FitTask) -> tuple[int, int]:
    """Return the maximum numbers of network evaluations of a fit, counted for one sample at a time: (of the body that
    is fitted, of the float32 body for the teacher and its checks).

    It is assumed that the first teacher suffices. It is checked against a start plan, the previous fitted plan and the
    best plan.
    """
    steps, seeds, choices, judges = task.steps, task.seeds, task.selection_seeds, task.judge_seeds
    long, solvers = len(task.teacher.steps), len(task.starts.path_solvers)
    on_path = min(FIRST_BLOCKS * BLOCK, seeds) if solvers else 0  # seeds of the teacher's path
    plans = len(task.starts.nominal) + 1 + (solvers + 1 if solvers else 0)  # including the norms of each start
    body = plans * FIRST_BLOCKS * BLOCK * steps + 4 * BLOCK  # choice of the start, and check for continuous times
    body += (seeds + choices) * steps + _count_search_rollouts(task) * steps  # samples of the nominal plan
    body += (seeds + choices + 3 * judges) * steps  # samples of the nominal, fitted and previous plans
    compared = 2 if task.previous is None else 3  # plans checked against the teacher
    return body, (seeds + choices + judges + on_path) * long + CHECK_SEEDS * (compared * steps + 3 * long)


def _count_search_rollouts(task: FitTask) -> int:
    """Return the maximum number of rollouts of one sample in the search, with other evaluations converted to
    rollouts."""
    steps, seeds, choices = task.steps, task.seeds, task.selection_seeds
    # only the seeds of the fit show that a candidate is overfitted, and then the next candidate is tried
    tried = len(RESTRAINTS) * (seeds + choices)
    columns = -(-count_calls(count_free_numbers(task)) // steps)
    trade = choices + seeds + choices + len(SHARES) * choices  # before the trade, and for energy
    if task.extractor is not None:
        steps_taken = len(WEIGHTS) * (1 + SECANTS)
        trade += seeds * columns + steps_taken * (len(RESTRAINTS) * choices + seeds)
        trade += len(WEIGHTS) * (len(SHARES) - 1) * choices
    iterations = task.iterations + (1 if task.starts.path_solvers else 0)  # one more, for the start plan that loses
    return FIRST_BLOCKS * BLOCK + choices + iterations * (seeds * columns + (1 + SECANTS) * tried) + trade


def count_free_numbers(task: FitTask) -> list[int]:
    """Return, for each step, the maximum number of coefficients and times that a fit changes."""
    given = max(len(plan.given) for plan in task.starts.plans)
    scalars = 1 + (task.guidance is not None)  # the time, and the guidance weight
    return [scalars + min(i + 2, HISTORY + 1) + given for i in range(task.steps)]


def search_bytes(task: FitTask) -> int:
    """Return the memory of the search in bytes: all columns of the Jacobian before and after a correction, or the
    teacher's path if that needs more."""
    elements = prod(task.bundle.manifest.x_shape)
    columns = 2 * 4 * task.seeds * sum(count_free_numbers(task)) * elements
    seen = min(FIRST_BLOCKS * BLOCK, task.seeds)
    return max(columns, path_bytes(seen, elements, len(task.teacher.steps))) if task.starts.path_solvers else columns


def estimate_fit(task: FitTask) -> Estimate:
    """Estimate the maximum cost of a fit, if the first teacher suffices."""
    body, teacher = count_evaluations(task)
    timed = task.starts.plans[0], task.conditions.fit, FIT_SEEDS[:BLOCK]
    sampler, reference = task.rolled.sampler, task.rolled.reference
    body_seconds = seconds_per_evaluation(sampler, *timed, body)
    teacher_seconds = body_seconds if sampler is reference else seconds_per_evaluation(reference, *timed, teacher)
    return Estimate(body + teacher, body * body_seconds + teacher * teacher_seconds)
