"""The mean error of a lowered body's output, measured in the closed loop: what adds up over steps, and can be undone.

Rounding averages out on the way; an error with the same sign at every step does not. So the lowered body is rolled out
along its own trajectory, and at each of its inputs float32 is asked too. The mean difference over samples and pixels is
one number for each step and channel. It is added at once: later steps are measured on inputs that are corrected.

PTQD (He et al. 2023, arXiv 2305.10657) takes such a mean along float32's own trajectory.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.precision.closed_loop import Course
from fewstep.plans.plan import Step
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.execute import advance, begin, combine
from fewstep.runtime.mixed_plans import split_outputs
from fewstep.runtime.progress import SILENT, Progress

Float = NDArray[np.float64]
LEAST_SUM = 0.1  # of the weights of branches, against the sum of their magnitudes: below, they nearly cancel


def mean_error(
    courses: Sequence[Course],
    networks: Sequence[LoadedGraph],
    exact: LoadedGraph,
    axis: int,
    groups: int,
    progress: Progress = SILENT,
) -> Float:
    """What to add to the output of a lowered body, [groups, channels].

    Args:
        courses: samples of one plan, all that the mean is taken over.
        networks: the lowered body, one for each range group of the plan.
        exact: the float32 body.
        axis: of the output, along which channels lie.
        groups: that the body tells apart: 1, or those of the plan. A group of several steps has their mean.

    Guidance weighs the branches of a step, and the mean follows its weights: one number is added to all branches, and
    what it makes of the guided output is exact.
    """
    plan = courses[0].plan
    rows = [begin(each.plan, each.draws, np.float32, each.given) for each in courses]
    found: list[list[Float]] = [[] for _ in range(groups)]
    for index, step in enumerate(plan.steps):
        inputs = [combine(step.input, each, np.float32) for each in rows]
        made = [each.call(networks[step.group], index, u) for each, u in zip(courses, inputs, strict=True)]
        wanted = [each.call(exact, index, u) for each, u in zip(courses, inputs, strict=True)]
        errors = [_by_branch(a, b, step, axis) for a, b in zip(wanted, made, strict=True)]
        mean = weights(step) @ np.average(errors, axis=0, weights=[len(u) for u in inputs])  # [channels]
        added = mean.astype(np.float32).reshape([-1 if each == axis else 1 for each in range(made[0].ndim)])
        for number, course in enumerate(courses):
            outputs = split_outputs(made[number] + added, step)
            after = advance(plan, index, rows[number], inputs[number], outputs, course.draws, np.float32)
            rows[number] = list(after.after)
        found[step.group if groups > 1 else 0].append(mean)
        progress("mean error of the output", index + 1, len(plan.steps))
    return np.array([np.mean(each, axis=0) if each else np.zeros_like(found[0][0]) for each in found])


def weights(step: Step) -> Float:
    """How much each branch of a step counts in the sample that the step predicts, with sum 1, [branches]. All alike
    where they nearly cancel, or where a shaping of several rows hides it."""
    row = step.x0 if step.shaping is None else step.shaping_of[0]
    first = len(step.input)
    counts = np.array(row[first : first + len(step.branches) * step.heads : step.heads], np.float64)
    total = counts.sum()
    if abs(total) <= LEAST_SUM * np.abs(counts).sum():
        return np.full(len(step.branches), 1 / len(step.branches))
    share: Float = counts / total
    return share


def _by_branch(wanted: NDArray[np.float32], made: NDArray[np.float32], step: Step, axis: int) -> Float:
    """The mean difference of each branch, [branches, channels]."""
    error = np.moveaxis(wanted.astype(np.float64) - made, axis, 1)
    split = error.reshape(len(step.branches), -1, *error.shape[1:])
    mean: Float = split.mean(axis=(1, *range(3, split.ndim)))
    return mean
