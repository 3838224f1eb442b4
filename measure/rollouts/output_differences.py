"""Directions of guidance and of conditions: differences of two outputs at one state, in int8 and float32.

Guidance adds a multiple of cond - uncond, or of cond - perturbed, to an output. This direction may be a twentieth of
the output, so a body may lose it while its samples have a fair PSNR. The other difference is between a sample's
condition and its neighbour's. Both bodies see the states of float32's trajectory: a figure is of one step alone.
Differences are in units of the predicted sample x0: the raw output of EDM may change by an eighth where x0 hardly does.
"""

from collections.abc import Iterable, Sequence
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from fewstep.graph.graph import GROUP
from fewstep.measure.rollouts.metrics import CEILING
from fewstep.measure.rollouts.recorded_run import RecordedRun
from fewstep.plans.guidance import COND
from fewstep.plans.plan import Step
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.bundle.manifest import Difference
from fewstep.runtime.sampling.execute import Array, StepState
from fewstep.runtime.sampling.step_call import split_outputs

GAINS, LEAST_RATIO = (0.5, 2.0), 0.0  # beyond them a difference is lost: int8 halves it, or adds as much as it has
LARGE = 0.1  # a share: int8's noise in a smaller difference may be larger than it, in bodies with 40 dB
LEAST_SHARE = 1e-4  # smaller differences are float32's own rounding
GUIDANCE, CONDITION = "direction of guidance", "difference of two conditions"

Sums = NDArray[np.float64]  # [2, 5]: of each difference, GUIDANCE and CONDITION, five `difference_sums`
NONE: Sums = np.zeros((2, 5))


def roll_batch(u: Array) -> Array:
    """The inputs [B, ...] of a step, each at the place of the next sample, whose conditions it then meets."""
    return np.roll(u, 1, axis=0)


def output_differences(step: Step, outputs: Sequence[Array], outputs_moved: Sequence[Array]) -> Array:
    """The part of x0 that is the output under each sample's condition, and its changes by guidance's direction and by
    the next sample's condition. The direction leads from the other branch, or from the mean of several, to cond.

    outputs, outputs_moved: of the network at a step, at its inputs and at `roll_batch` ones, [B, *x_shape] each.
    Returns [3, B, *x_shape]. What a step lacks is 0: the direction where it is not guided, the last for one sample.
    """
    named = dict(zip(step.branches, outputs[:: step.heads], strict=True))
    cond = named.get(COND, np.zeros_like(outputs[0]))
    other = dict(zip(step.branches, outputs_moved[:: step.heads], strict=True)).get(COND, cond)
    sources = [output for branch, output in named.items() if branch != COND] or [cond]
    return _x0_gain(step) * np.stack([cond, cond - sum(sources) / len(sources), cond - np.roll(other, -1, axis=0)])


def _x0_gain(step: Step) -> float:
    """The gain of x0 where the prediction of each branch gains 1: x0 of a state 0 and of predictions 1."""
    columns = [0.0] * len(step.input) + [1.0, *[0.0] * (step.heads - 1)] * len(step.branches)
    if step.shaping is not None:  # whose result is a column too, here as if it changed nothing
        columns.append(sum(a * b for a, b in zip(step.shaping_of[0], columns, strict=True)))
    return sum(a * b for a, b in zip(step.x0, columns, strict=True))


def difference_sums(int8: Array, exact: Array, x0: Array) -> Sums:
    """Sums of both differences, a row each: d.d, (d' - d).(d' - d), x0.x0, p.p and d'.d. Here d is float32's, d' is
    int8's, x0 [B, *x_shape] are float32's predicted samples, and p is the output's part in them. Sums of batches add
    up. `int8`, `exact`: `output_differences` [3, B, *x_shape] of the two bodies, the outputs' parts first."""
    sample = x0.astype(np.float64).ravel()
    values, (part, *signals) = (each.astype(np.float64).reshape(3, -1) for each in (int8, exact))
    rows = [
        (signal @ signal, (value - signal) @ (value - signal), sample @ sample, part @ part, value @ signal)
        for value, signal in zip(values[1:], signals, strict=True)
    ]
    return np.array(rows)


def summarize_differences(index: int, added: Sums) -> tuple[Difference | None, Difference | None]:
    """Guidance's direction and the difference of two conditions at a step. None where there is none."""

    def summarize(signal: float, error: float, sample: float, part: float, product: float) -> Difference | None:
        energy = max(sample, part)  # at high noise x0 is a small difference of large parts, all of which are rounded
        if not signal > LEAST_SHARE**2 * energy:
            return None
        ratio = min(10 * np.log10(signal / error), CEILING) if error else CEILING
        return Difference(index, product / signal, float(ratio), float(np.sqrt(signal / energy)))

    guidance, condition = (summarize(*map(float, row)) for row in added)
    return guidance, condition


def float_differences(course: RecordedRun, graph: LoadedGraph) -> tuple[Array, ...]:
    """The `output_differences` of float32's graph at each step of a course."""

    def drop_group(feeds: Arrays) -> dict[str, NDArray[np.float32]]:  # which float32's graph does not take
        return graph({name: value for name, value in feeds.items() if name != GROUP})

    return tuple(
        output_differences(state.step, state.outputs, _run_graph(course, drop_group, state, roll_batch(state.u)))
        for state in course.float_states
    )


def body_differences(
    course: RecordedRun, graphs: Sequence[LoadedGraph]
) -> tuple[tuple[Difference | None, ...], tuple[Difference | None, ...]]:
    """Guidance's directions and the differences of two conditions along a course that has float32's; `graphs` has a
    body's graph for each range group."""
    steps = []
    for state, exact in zip(course.float_states, course.differences, strict=False):  # none without differences
        graph = graphs[state.step.group]
        outputs = (_run_graph(course, graph, state, u) for u in (state.u, roll_batch(state.u)))
        steps.append(
            summarize_differences(
                state.index, difference_sums(output_differences(state.step, *outputs), exact, state.x0)
            )
        )
    guidance, condition = zip_longest(*steps) if steps else ((), ())
    return guidance, condition


def worst_difference(steps: Iterable[Difference | None]) -> Difference | None:
    """The lost difference with the lowest ratio of signals, or else the lowest of all; None of none."""
    return min(filter(None, steps), key=lambda each: (not is_lost(each), each.ratio), default=None)


def is_lost(difference: Difference) -> bool:
    """True where int8 leaves too little of a difference, or too much; of a large one also where noise hides it."""
    low, high = GAINS
    is_hidden = difference.share >= LARGE and difference.ratio < LEAST_RATIO
    return is_hidden or not low <= difference.gain <= high


def describe_difference(difference: Difference) -> str:
    """A difference in words."""
    return (
        f"gain {difference.gain:.2f} and {difference.ratio:.1f} dB at step {difference.step + 1}, where it is "
        f"{100 * difference.share:.1f} % of the predicted sample"
    )


def _run_graph(course: RecordedRun, graph: LoadedGraph, state: StepState, u: Array) -> list[Array]:
    """A graph's outputs [B, *x_shape] at a step of float32's run, and another u [B, *x_shape] there."""
    return split_outputs(graph(course.body_feeds(state, u))[course.ports[1]], state.step)
