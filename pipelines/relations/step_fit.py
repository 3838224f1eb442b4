"""The steps of a scheduler as sums with fixed weights, found in recordings by least squares.

Each step is a sum of x, the guided outputs of this step and of earlier ones, and the noise that the scheduler draws
(`plans.configs.recorded_steps`). A scheduler that clips, that measures its outputs, or that draws noise by other means
than `randn_tensor` cannot be written as such a sum, and is refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import replace as with_fields
from numpy.typing import NDArray

from fewstep.pipelines.recording.call_record import CallRecord
from fewstep.pipelines.recording.components import BuiltPipeline
from fewstep.pipelines.recording.fit import TOLERANCE, fit, round_number
from fewstep.pipelines.recording.record import record
from fewstep.pipelines.recording.stand_ins import recording_error
from fewstep.pipelines.relations.drawn_noise import Array, keep_draws, keep_first_draws
from fewstep.pipelines.relations.relations import Relations
from fewstep.plans.configs.recorded import RecordedStep, RecordedSteps

SEEDS = (41, 42)  # seeds of two recordings, between which weights that depend on the data would differ
ELEMENTS = 4  # per weight that is fitted, at least

Floats = NDArray[np.float64]
Column = tuple[str, int]  # ("x", 0), ("first", 0), ("output", steps ago), ("noise", number of the draw)


@dataclass(frozen=True)
class _StepRun:
    """A recording with random outputs.

    inputs: the inputs of the network at each step.
    targets: what each step's result leads to: the next input of the network, or the final x.
    outputs: what the scheduler received.
    draws: the noise that it drew. All tensors are flattened.
    """

    inputs: Sequence[Floats]
    targets: Sequence[Floats]
    outputs: Sequence[Floats]
    draws: Mapping[int, Floats]
    times: tuple[float, ...]
    scale: float  # factor of x in the network's first input
    deviation: float | None  # factor of the pipeline's draw in the first x, None if x is not a multiple of a draw


def fit_steps(built: BuiltPipeline, found: Relations, settings: Mapping[str, Any]) -> RecordedSteps:
    """Return the steps of a call. Raises UserError if they are not sums with fixed weights."""
    runs = [_record_run(built, found, settings, seed) for seed in SEEDS]
    if len({run.times for run in runs}) != 1:
        raise recording_error(f"the times of {built.name}'s scheduler depend on the data")
    name = type(built.pipeline.scheduler).__name__
    steps = [_fit_step(name, runs, index) for index in range(len(runs[0].times))]
    if found.seconds:
        ends = [*runs[0].times[1:], 0.0]
        steps = [with_fields(step, to=end) for step, end in zip(steps, ends, strict=True)]
    deviation = runs[0].deviation or float(getattr(built.pipeline.scheduler, "init_noise_sigma", 1.0))
    return RecordedSteps(runs[0].scale * deviation, tuple(steps))


def _record_run(built: BuiltPipeline, found: Relations, settings: Mapping[str, Any], seed: int) -> _StepRun:
    with keep_draws(type(built.pipeline.scheduler)) as draws, keep_first_draws(built.pipeline) as first:
        made = record(built, settings, seed)
    samples = [_flatten(step.sample.numpy()) for step in made.steps]
    inputs = [_read_input(made, found, index) for index in range(len(made.steps))]
    scales = [float(u @ x / (x @ x)) for u, x in zip(inputs, samples, strict=True)]
    targets = [
        scale * _flatten(step.result.numpy()) for step, scale in zip(made.steps, [*scales[1:], 1.0], strict=True)
    ]
    return _StepRun(
        inputs,
        targets,
        [_flatten(step.model_output.numpy()) for step in made.steps],
        {number: _flatten(draw) for number, draw in enumerate(draws) if draw.size == len(samples[0])},
        tuple(step.time for step in made.steps),
        scales[0],
        _find_deviation(samples[0], first),
    )


def _find_deviation(x: Floats, draws: Sequence[Array]) -> float | None:
    """Return the standard deviation of the first x: the factor by which it is a multiple of a noise draw. None if it is
    a multiple of no draw."""
    for draw in (_flatten(draw) for draw in draws if draw.size == len(x)):
        factor = float(draw @ x / (draw @ draw))
        if np.abs(factor * draw - x).max() <= TOLERANCE * np.ptp(x):
            return round_number(factor)
    return None


def _read_input(made: CallRecord, found: Relations, index: int) -> Floats:
    step = made.steps[index]
    return _flatten(step.calls[0].leaves[found.x][: len(step.sample)].numpy())


def _flatten(array: Array) -> Floats:
    return array.astype(np.float64).reshape(-1)


def _fit_step(name: str, runs: Sequence[_StepRun], index: int) -> RecordedStep:
    """Return one step, as the sum of the fewest terms that give it in all runs."""
    target = np.concatenate([run.targets[index] for run in runs])
    for columns in _choose_columns(index, sorted(set.intersection(*({*run.draws} for run in runs)))):
        if ELEMENTS * len(columns) > len(target):
            break
        values = [np.concatenate([_column(run, index, column) for run in runs]) for column in columns]
        weights, residual = fit(values, target)
        if residual <= 2 * TOLERANCE:
            return _make_step(runs[0].times[index], dict(zip(columns, weights, strict=True)))
    raise recording_error(
        f"step {index + 1} of {name} is not a sum of x, outputs and its noise with fixed weights: it may clip, or draw "
        "noise that is not recorded"
    )


def _choose_columns(index: int, draws: Sequence[int]) -> Iterator[list[Column]]:
    """Yield lists of terms to try: x with more and more of the last outputs, then all outputs and the first x."""
    noise: list[Column] = [("noise", number) for number in draws]
    outputs: list[Column] = [("output", ago) for ago in range(index + 1)]
    for ago in range(index + 1):
        yield [("x", 0), *outputs[: ago + 1]]
        if noise:
            yield [("x", 0), *outputs[: ago + 1], *noise]
    yield [("first", 0), *outputs, *noise]


def _column(run: _StepRun, index: int, column: Column) -> Floats:
    kind, number = column
    if kind == "output":
        return run.outputs[index - number]
    return run.draws[number] if kind == "noise" else run.inputs[0 if kind == "first" else index]


def _make_step(time: float, weights: Mapping[Column, float]) -> RecordedStep:
    outputs = [weights[column] for column in sorted(weight for weight in weights if weight[0] == "output")]
    while len(outputs) > 1 and outputs[-1] == 0:
        outputs.pop()
    noise = [(number, weight) for (kind, number), weight in weights.items() if kind == "noise" and weight]
    return RecordedStep(
        time, weights.get(("x", 0), 0.0), tuple(outputs), tuple(sorted(noise)), weights.get(("first", 0), 0.0)
    )
