"""What a recorded pipeline does at other sizes of x: the constant arguments of its network that follow them, and the
shift of its schedule."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from msgspec.structs import replace as with_fields

from fewstep.pipelines.recorded_pipeline import Part, RecordedPipeline
from fewstep.pipelines.recording.call_record import CallRecord
from fewstep.pipelines.recording.call_sizes import FACTORS, find_call_sizes
from fewstep.pipelines.recording.fit import ROUNDING, fit
from fewstep.pipelines.recording.record import record
from fewstep.pipelines.recording.settings import MORE_STEPS, STEP_COUNT
from fewstep.pipelines.relations.arguments import Argument, rows_first
from fewstep.pipelines.relations.size_rules import Sizes, find_size_rule, may_follow
from fewstep.plans.configs.recorded import ShiftOfSize
from fewstep.plans.errors import UserError

LARGER = ((2, 1), (1, 2), (2, 2))  # factors of height and width of further calls


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
    try:
        records = _record_larger(recorded)
    except UserError:
        return recorded
    parts = dict(recorded.parts)
    for component, path in followers:
        parts[component] = _with_rule(recorded, parts[component], path, records)
    return replace(recorded, parts=parts, rules=with_fields(recorded.rules, mu_of_size=_fit_shift(recorded, records)))


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


def _record_larger(recorded: RecordedPipeline) -> dict[tuple[int, ...], list[CallRecord]]:
    """Record the first step of calls for x of the usual and of larger shapes: with the usual number of steps, and with
    others if the pipeline passes a shift. Raises UserError if the pipeline takes no other sizes."""
    built, usual, x_shape = recorded.built, recorded.settings.of(), recorded.x_shape
    axes = len(x_shape) - 2, len(x_shape) - 1
    sizes = find_call_sizes(built, usual, x_shape, dict.fromkeys(axes, ()))
    counts: list[dict[str, Any]] = [{}]
    if recorded.rules.mu and STEP_COUNT in usual:
        counts.append({STEP_COUNT: MORE_STEPS})
    records = dict[tuple[int, ...], list[CallRecord]]()
    for by_height, by_width in ((1, 1), *LARGER):
        shape = (*x_shape[:-2], by_height * x_shape[-2], by_width * x_shape[-1])
        settings = {**usual, **(sizes.settings(shape) if shape != x_shape else {})}
        records[shape] = [record(built.at(shape), {**settings, **count}, 0, stops=True) for count in counts]
    return records


def _with_rule(
    recorded: RecordedPipeline, part: Part, path: str, records: Mapping[tuple[int, ...], Sequence[CallRecord]]
) -> Part:
    """Return what was found about a network with the rule of one of its arguments, if it has one."""
    argument, values = part.arguments.arguments[path], dict[Sizes, Any]()
    for shape, (own, *_) in records.items():
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


def _fit_shift(
    recorded: RecordedPipeline, records: Mapping[tuple[int, ...], Sequence[CallRecord]]
) -> ShiftOfSize | None:
    """Return how the argument mu of a scheduler changes with the size of x; None if it does not, or in another way."""
    if recorded.rules.mu is None:
        return None
    usual, points = prod(recorded.x_shape[1:]), list[tuple[float, float, float]]()
    for shape, calls in records.items():
        for call in calls:
            sigmas, mu = call.times.get("sigmas"), call.times.get("mu")
            if mu is None:
                return None
            count = len(sigmas) if sigmas is not None else int(call.times[STEP_COUNT])
            points.append((float(count), float(prod(shape[1:]) - usual), float(mu)))
    counts, more, mus = np.array(points).T
    start, slope = recorded.rules.mu
    (by_size, by_both), residual = fit([more, counts * more], mus - (start + slope * counts))
    if residual > ROUNDING or not (by_size or by_both):
        return None
    return ShiftOfSize(usual, by_size, by_both)
