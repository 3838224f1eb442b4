"""The mean error of a lowered body's output at each step: what adds up over steps, and can be undone.

Rounding averages out on the way; an error with the same sign at every step does not. The lowered body is asked at the
inputs of float32's own trajectory, whose outputs are known: they cost float32 nothing (PTQD, He et al. 2023, arXiv
2305.10657). The mean difference over samples and pixels is one number for each step and channel. Its inputs differ from
those of the deployed body by that body's error alone: measured along the body's own trajectory the numbers were the
same within their noise, and so was their worth.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fewstep.graph.graph import GROUP
from fewstep.plans.plan import Step
from fewstep.rollouts.closed_loop import Course
from fewstep.runtime.backends import Arrays, LoadedGraph

Float = NDArray[np.float64]
LEAST_SUM = 0.1  # of the weights of branches, against the sum of their magnitudes: below, they nearly cancel


def mean_error(course: Course, network: LoadedGraph, axis: int, groups: int) -> Float:
    """What to add to the output of a lowered body, [groups, channels].

    Args:
        course: samples of one plan, all that the mean is taken over.
        network: the lowered body.
        axis: of the output, along which channels lie.
        groups: that the body tells apart: 1, or those of the plan. A group of several steps has their mean.

    Guidance weighs the branches of a step, and the mean follows its weights: one number is added to all branches, and
    what it makes of the guided output is exact.
    """
    found: list[list[Float]] = [[] for _ in range(groups)]
    for state in course.reference:
        wanted, made = joined(state.outputs, state.step), course.call(network, state.index, state.u)
        mean = weights(state.step) @ _by_branch(wanted, made, state.step, axis)  # [channels]
        found[state.step.group if groups > 1 else 0].append(mean)
    return np.array([np.mean(each, axis=0) if each else np.zeros_like(found[0][0]) for each in found])


def after_first(network: LoadedGraph, output: str, first: NDArray[np.floating]) -> LoadedGraph:
    """The network, of which the first call's output is known: at the first step all runs of a course see its noise."""
    known = [first]

    def run(feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        return {output: known.pop().astype(np.float32)} if known else network(feeds)

    return run


def corrected(network: LoadedGraph, output: str, bias: Float, axis: int) -> LoadedGraph:
    """The network with `bias` [groups, channels] added to its output, as `with_output_bias` writes it."""
    numbers = bias.astype(np.float32)

    def run(feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        made = network(feeds)[output]
        row = numbers[int(feeds[GROUP][0]) if len(numbers) > 1 else 0]
        return {output: made + row.reshape([-1 if n == axis else 1 for n in range(made.ndim)])}

    return run


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


def joined(outputs: Sequence[NDArray[np.floating]], step: Step) -> NDArray[np.floating]:
    """The outputs of all branches and heads as one call has them: the inverse of `split_outputs`."""
    branches = [outputs[start : start + step.heads] for start in range(0, len(outputs), step.heads)]
    return np.concatenate([np.concatenate(heads, axis=1) for heads in branches])


def _by_branch(wanted: NDArray[np.floating], made: NDArray[np.floating], step: Step, axis: int) -> Float:
    """The mean difference of each branch, [branches, channels]."""
    error = np.moveaxis(wanted.astype(np.float64) - made, axis, 1)
    split = error.reshape(len(step.branches), -1, *error.shape[1:])
    mean: Float = split.mean(axis=(1, *range(3, split.ndim)))
    return mean
