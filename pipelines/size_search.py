"""What a recorded pipeline does at other sizes of x: the constant arguments of its network that follow them, and the
shift of its schedule."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import numpy as np
from msgspec.structs import replace as with_fields

from fewstep.pipelines.recorded_pipeline import Part, RecordedPipeline
from fewstep.pipelines.recording.call_record import CallRecord
from fewstep.pipelines.recording.call_sizes import FACTORS, CallSizes, find_call_sizes
from fewstep.pipelines.recording.fit import ROUNDING, fit
from fewstep.pipelines.recording.record import record, record_times
from fewstep.pipelines.recording.settings import STEP_COUNT
from fewstep.pipelines.recording.stand_ins import recording_error
from fewstep.pipelines.relations.argument_rows import rows_first
from fewstep.pipelines.relations.arguments import Argument
from fewstep.pipelines.relations.size_rules import Sizes, find_size_rule, may_follow
from fewstep.plans.configs.recorded import ShiftOfSize
from fewstep.plans.errors import UserError, one_line

FACTORS_OF_CALLS = ((1, 1), (2, 1), (1, 2), (3, 2))  # of height and width


def follow_sizes(recorded: RecordedPipeline) -> RecordedPipeline:
    """Return the pipeline with rules for the arguments and the shift that follow the height and width of x. It is
    unchanged if it has none that may, or if its call takes no other sizes."""
    followers = [
        (component, path)
        for component, part in recorded.parts.items()
        for path, argument in part.arguments.arguments.items()
        if _may_follow(recorded, argument)
    ]
    if len(recorded.x_shape) < 3 or not (followers or recorded.rules.mu):
        return recorded
    axes = dict.fromkeys((len(recorded.x_shape) - 2, len(recorded.x_shape) - 1), ())
    try:
        sizes = find_call_sizes(recorded.built, recorded.settings.of(), recorded.x_shape, axes)
        shapes = _shapes(recorded.x_shape, FACTORS_OF_CALLS) if followers else []
        records = {shape: _record_first_step(recorded, sizes, shape) for shape in shapes}
    except UserError:
        return recorded
    parts = dict(recorded.parts)
    for component, path in followers:
        parts[component] = _with_rule(recorded, parts[component], path, records)
    return replace(recorded, parts=parts, rules=with_fields(recorded.rules, mu_of_size=_fit_shift(recorded, sizes)))


def counts_of_steps(recorded: RecordedPipeline) -> list[dict[str, int]]:
    """Return the arguments of calls with two numbers of steps, or of the usual one if the call takes none."""
    other = recorded.settings.other_steps
    return [{}] if other is None else [{}, {STEP_COUNT: other}]


def read_shift(
    recorded: RecordedPipeline, sizes: CallSizes, shape: tuple[int, ...], count: Mapping[str, int]
) -> tuple[int, float | None]:
    """Return the number of steps of a call for x of this shape, and the argument mu of its scheduler, or None. Raises
    UserError if the call refuses the shape."""
    settings = recorded.settings.of(None, {**(sizes.settings(shape) if shape != recorded.x_shape else {}), **count})
    try:
        times = record_times(recorded.built, settings)
    except UserError:
        raise
    except Exception as error:
        raise recording_error(f"{recorded.built.name} makes no x {list(shape)}: {one_line(error)}") from error
    sigmas, mu = times.get("sigmas"), times.get("mu")
    return len(sigmas) if sigmas is not None else int(times[STEP_COUNT]), None if mu is None else float(mu)


def _sizes(x_shape: Sequence[int]) -> Sizes:
    return x_shape[-2], x_shape[-1]


def _block(recorded: RecordedPipeline) -> Sizes | None:
    """Return the height and width of the latents of one token, or None for a pipeline without tokens of pictures."""
    packing = recorded.built.packing
    return None if packing is None or len(packing.block) != 2 else (packing.block[0], packing.block[1])


def _may_follow(recorded: RecordedPipeline, argument: Argument) -> bool:
    if argument.condition is not None or argument.counts is not None or len(recorded.x_shape) < 3:
        return False
    return may_follow(argument.value, _sizes(recorded.x_shape), FACTORS, _block(recorded))


def _shapes(x_shape: Sequence[int], factors: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Return the shapes of x with multiples of height and width, and with height and width exchanged. The first is the
    usual one."""
    *before, height, width = x_shape
    shapes = [(*before, by_height * height, by_width * width) for by_height, by_width in factors]
    return [*dict.fromkeys((*shapes, (*before, width, height)))]


def _record_first_step(recorded: RecordedPipeline, sizes: CallSizes, shape: tuple[int, ...]) -> CallRecord:
    settings = recorded.settings.of(None, sizes.settings(shape) if shape != recorded.x_shape else {})
    return record(recorded.built.at(shape), settings, 0, stops=True)


def _with_rule(
    recorded: RecordedPipeline, part: Part, path: str, records: Mapping[tuple[int, ...], CallRecord]
) -> Part:
    """Return what was found about a network with the rule of one of its arguments, if it has one."""
    argument, values = part.arguments.arguments[path], dict[Sizes, Any]()
    for shape, own in records.items():
        call = own.steps[0].calls[0]
        leaves = rows_first(call, part.relations) if call.component == part.relations.component else {}
        if path not in leaves:
            return part
        values[_sizes(shape)] = leaves[path][:1] if argument.repeats else leaves[path]
    rule = find_size_rule(values, _block(recorded))
    if rule is None:
        return part
    arguments = {**part.arguments.arguments, path: replace(argument, of_size=rule)}
    return replace(part, arguments=replace(part.arguments, arguments=arguments))


def _fit_shift(recorded: RecordedPipeline, sizes: CallSizes) -> ShiftOfSize | None:
    """Return how the argument mu of a scheduler changes with the size of x; None if it does not, or in another way.

    It may be linear in the number of positions up to a limit, as in FLUX.2, so that smaller calls are tried after
    larger ones.
    """
    if recorded.rules.mu is None:
        return None
    *before, height, width = recorded.x_shape
    larger = _shapes(recorded.x_shape, FACTORS_OF_CALLS)
    smaller = [(*before, height // high, width // wide) for high, wide in ((1, 1), (2, 1), (1, 2), (2, 2))]
    for shapes in (larger, smaller):
        with suppress(UserError):
            shift = _fit_shift_at(recorded, sizes, shapes)
            if shift is not None:
                return shift
    return None


def _fit_shift_at(
    recorded: RecordedPipeline, sizes: CallSizes, shapes: Sequence[tuple[int, ...]]
) -> ShiftOfSize | None:
    """Return how mu changes between x of these shapes, or None. Raises UserError for a shape that the call refuses."""
    usual, points = prod(recorded.x_shape[1:]), list[tuple[int, int, float]]()
    for shape, count in product(shapes, counts_of_steps(recorded)):
        steps, mu = read_shift(recorded, sizes, shape, count)
        if mu is None:
            return None
        points.append((steps, prod(shape[1:]) - usual, mu))
    start, slope = recorded.rules.mu or (0.0, 0.0)
    counts, more, mus = np.array(points, np.float64).T
    columns = [more, counts * more] if len(set(counts)) > 1 else [more]
    found, residual = fit(columns, mus - (start + slope * counts))
    by_size, by_both = (*found, 0.0)[:2]
    is_linear = residual <= ROUNDING and (by_size or by_both)
    return ShiftOfSize(usual, float(by_size), float(by_both)) if is_linear else None
