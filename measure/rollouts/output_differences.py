"""Differences that guidance and conditions make between two outputs at one state, for int8 and float32.

Guidance adds a multiple of cond - uncond, or of cond - perturbed, to an output. This direction may be a twentieth of
the output, so a body may lose it although its samples have a fair PSNR. The second difference is between a sample's
condition and its neighbour's. Both bodies read the states of float32's trajectory, so a figure concerns one step only.
Differences are measured in the predicted sample x0: where the raw output of EDM changes by an eighth, x0 may hardly
change.
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

GAINS, LEAST_RATIO = (0.5, 2.0), 0.0  # limits: lost if less than half, more than twice, or below its noise
LARGE = 0.1  # share from which noise counts; a smaller difference may be below int8's noise even in bodies of 40 dB
LEAST_SHARE = 1e-4  # smaller differences are due to float32 rounding
GUIDANCE, CONDITION = "direction of guidance", "difference of two conditions"

Sums = NDArray[np.float64]  # [2, 5]: `difference_sums` of GUIDANCE and of CONDITION
NONE: Sums = np.zeros((2, 5))


def roll_batch(u: Array) -> Array:
    """Return a step's inputs [B, ...] rolled by one along the batch, so that each is evaluated with the conditions of
    the next sample."""
    return np.roll(u, 1, axis=0)


def output_differences(step: Step, outputs: Sequence[Array], outputs_moved: Sequence[Array]) -> Array:
    """Return three terms of x0: the output under each sample's condition, the guidance difference, and the change of
    the output under the next sample's condition. The guidance difference is the branch cond minus the other branch, or
    minus the mean of several other branches.

    outputs, outputs_moved: the network's outputs at a step, for its inputs and for `roll_batch` of them, [B, *x_shape]
        each. Returns [3, B, *x_shape]. Missing differences are 0: the guidance difference at a step without guidance,
        and the change of condition for a single sample.
    """
    named = dict(zip(step.branches, outputs[:: step.heads], strict=True))
    cond = named.get(COND, np.zeros_like(outputs[0]))
    other = dict(zip(step.branches, outputs_moved[:: step.heads], strict=True)).get(COND, cond)
    sources = [output for branch, output in named.items() if branch != COND] or [cond]
    return _x0_gain(step) * np.stack([cond, cond - sum(sources) / len(sources), cond - np.roll(other, -1, axis=0)])


def _x0_gain(step: Step) -> float:
    """Return the change of x0 if the prediction of each branch changes by 1. Since x0 is linear, this is x0 for a state
    of 0 and predictions of 1."""
    columns = [0.0] * len(step.input) + [1.0, *[0.0] * (step.heads - 1)] * len(step.branches)
    if step.shaping is not None:  # the shaping's result is a column too; here it is treated as if it changed nothing
        columns.append(sum(a * b for a, b in zip(step.shaping_of[0], columns, strict=True)))
    return sum(a * b for a, b in zip(step.x0, columns, strict=True))


def difference_sums(int8: Array, exact: Array, x0: Array) -> Sums:
    """Return the sums for both differences, one row each: d.d, (d' - d).(d' - d), x0.x0, p.p and d'.d. Here d is
    float32's difference, d' int8's, x0 [B, *x_shape] float32's predicted samples, and p the output's part in them. Sums
    of several batches add up. `int8`, `exact`: `output_differences` [3, B, *x_shape] of the two bodies."""
    sample = x0.astype(np.float64).ravel()
    values, (part, *signals) = (body.astype(np.float64).reshape(3, -1) for body in (int8, exact))
    rows = [
        (signal @ signal, (value - signal) @ (value - signal), sample @ sample, part @ part, value @ signal)
        for value, signal in zip(values[1:], signals, strict=True)
    ]
    return np.array(rows)


def summarize_differences(index: int, added: Sums) -> tuple[Difference | None, Difference | None]:
    """Return how well a body preserves the guidance difference, and the difference between two conditions, at a step.
    Each is None if float32's difference is absent or too small to compare."""

    def summarize(signal: float, error: float, sample: float, part: float, product: float) -> Difference | None:
        energy = max(sample, part)  # at high noise x0 is a small difference of large terms, all of which are rounded
        if not signal > LEAST_SHARE**2 * energy:
            return None
        ratio = min(10 * np.log10(signal / error), CEILING) if error else CEILING
        return Difference(index, product / signal, float(ratio), float(np.sqrt(signal / energy)))

    guidance, condition = (summarize(*map(float, row)) for row in added)
    return guidance, condition


def float_differences(recorded_run: RecordedRun, graph: LoadedGraph) -> tuple[Array, ...]:
    """Return the `output_differences` of float32's graph at each step of a recorded run."""

    def drop_group(feeds: Arrays) -> dict[str, NDArray[np.float32]]:  # float32's graph does not have this input
        return graph({name: value for name, value in feeds.items() if name != GROUP})

    return tuple(
        output_differences(state.step, state.outputs, _run_graph(recorded_run, drop_group, state, roll_batch(state.u)))
        for state in recorded_run.float_states
    )


def body_differences(
    recorded_run: RecordedRun, graphs: Sequence[LoadedGraph]
) -> tuple[tuple[Difference | None, ...], tuple[Difference | None, ...]]:
    """Return two tuples with one entry per step of a recorded run: how well a body preserves the difference of
    guidance, and how well it preserves the difference between two conditions. Entries are None where there is no such
    difference. `graphs` are the body's graphs, one per range group."""
    steps = []
    # the differences are empty if they were not recorded
    for state, exact in zip(recorded_run.float_states, recorded_run.differences, strict=False):
        graph = graphs[state.step.group]
        outputs = (_run_graph(recorded_run, graph, state, u) for u in (state.u, roll_batch(state.u)))
        steps.append(
            summarize_differences(
                state.index, difference_sums(output_differences(state.step, *outputs), exact, state.x0)
            )
        )
    guidance, condition = zip_longest(*steps) if steps else ((), ())
    return guidance, condition


def worst_difference(steps: Iterable[Difference | None]) -> Difference | None:
    """Return the lost difference with the lowest ratio; if none is lost, the difference with the lowest ratio of all.
    None if there are no differences."""
    return min(filter(None, steps), key=lambda step: (not is_lost(step), step.ratio), default=None)


def is_lost(difference: Difference) -> bool:
    """Return whether int8 makes a difference too small or too large, or hides a large one in noise."""
    low, high = GAINS
    is_hidden = difference.share >= LARGE and difference.ratio < LEAST_RATIO
    return is_hidden or not low <= difference.gain <= high


def describe_difference(difference: Difference) -> str:
    """Return a difference as text."""
    return (
        f"{difference.gain:.2f} times as large as float32's, {difference.ratio:.1f} dB above its error, at step "
        f"{difference.step + 1}, where it is {100 * difference.share:.1f} % of the predicted sample"
    )


def _run_graph(recorded_run: RecordedRun, graph: LoadedGraph, state: StepState, u: Array) -> list[Array]:
    """Return a graph's outputs [B, *x_shape] at a step of float32's run, for the input u [B, *x_shape]."""
    calls = [graph(feeds)[recorded_run.ports[1]] for feeds in recorded_run.body_feeds(state, u)]
    return split_outputs(np.concatenate(calls), state.step)
