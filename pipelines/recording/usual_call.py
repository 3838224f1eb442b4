"""Choose the usual call of a pipeline: with images if it needs them, with guidance if it can have it, and with padded
texts if the network's arguments depend on the length of a text."""

import inspect
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from fewstep.pipelines.recording.call_record import CallRecord, SchedulerStep
from fewstep.pipelines.recording.components import BuiltPipeline
from fewstep.pipelines.recording.joined_networks import joins_alike
from fewstep.pipelines.recording.record import CallError, record
from fewstep.pipelines.recording.settings import (
    GUIDANCES,
    LENGTH,
    NEGATIVE,
    OUTPUT,
    PLAIN,
    PROMPT,
    SHORTNESS,
    STEP_COUNT,
    STEPS_OF_TWO,
    CallSettings,
    choose_settings,
)
from fewstep.plans.errors import UserError

LOG = logging.getLogger("fewstep")


def record_usual_call(
    built: BuiltPipeline, given: Mapping[str, Any], pads_texts: bool = True
) -> tuple[CallSettings, CallRecord]:
    """Choose the usual call, and record it. Raises the first error if the pipeline does not run.

    pads_texts: texts of other lengths than the longest may be padded.
    """
    try:
        settings, first = _record_with_pictures_if_needed(built, given)
    except CallError as error:
        default = inspect.signature(type(built.pipeline).__call__).parameters.get(OUTPUT)
        if default is None or OUTPUT in given or OUTPUT not in error.what:
            raise
        given = {**given, OUTPUT: default.default}  # such as Marigold, which returns no latents
        settings, first = _record_with_pictures_if_needed(built, given)
    has_two = len(built.denoisers.keys() - built.seconds) > 1
    if has_two and STEP_COUNT in settings.usual:  # so that each may run several steps
        settings = choose_settings(built.pipeline, given, replace(settings.forms, steps=STEPS_OF_TWO))
        first = record(built, settings.of(), 0)
    settings, first = _record_with_guidance(built, given, settings, first)
    if (NEGATIVE in given and PROMPT not in given) or not _is_length_seen(built, settings, first):
        return settings, first
    if pads_texts and PROMPT not in given:
        padded = choose_settings(built.pipeline, given, replace(settings.forms, is_padded=True))
        try:
            return padded, record(built, padded.of(), 0)
        except UserError as error:
            LOG.info("%s takes no two prompts of different lengths: %s", built.name, error.what)
    free = choose_settings(built.pipeline, given, replace(settings.forms, has_free_length=True))
    try:
        record(built, free.of(LENGTH), 0)
    except CallError as error:  # such as a limit that cuts a picture off the longest text
        LOG.info("%s takes no text of any length: %s", built.name, error.what)
        free = replace(free, variants={**free.variants, LENGTH: settings.variants[LENGTH]})
    return free, first


def _record_with_pictures_if_needed(built: BuiltPipeline, given: Mapping[str, Any]) -> tuple[CallSettings, CallRecord]:
    settings = choose_settings(built.pipeline, given)
    try:
        return settings, record(built, settings.of(), 0)
    except UserError as error:
        with_pictures = choose_settings(built.pipeline, given, replace(PLAIN, has_pictures=True))
        if set(with_pictures.usual) == set(settings.usual):
            raise
        try:
            return with_pictures, record(built, with_pictures.of(), 0)
        except UserError as other:
            raise other from error


def _record_with_guidance(
    built: BuiltPipeline, given: Mapping[str, Any], settings: CallSettings, first: CallRecord
) -> tuple[CallSettings, CallRecord]:
    """Return the call with the first guidance weight that adds a branch which can be joined, if the usual call has no
    guidance, and the user chose none."""
    if _count_rows(first.steps[0]) > len(first.steps[0].sample):
        return settings, first
    for name in GUIDANCES:
        if name not in settings.variants or name in given:
            continue
        other = record(built, settings.of(name), 0)
        if _count_rows(other.steps[0]) > _count_rows(first.steps[0]) and joins_alike(other):
            weight = float(settings.variants[name][name])
            return choose_settings(built.pipeline, given, replace(settings.forms, guided_by=(name, weight))), other
    return settings, first


def _count_rows(step: SchedulerStep) -> int:
    """Return the number of rows of a network's outputs in a step."""
    return sum(len(call.output) for call in step.calls)


def _is_length_seen(built: BuiltPipeline, settings: CallSettings, first: CallRecord) -> bool:
    """Return whether the shape of an argument of the network depends on the length of the prompt."""
    shapes = _shapes(first)
    others = (record(built, settings.of(axis), 0) for axis in (LENGTH, SHORTNESS) if axis in settings.variants)
    return any(_shapes(other) != shapes for other in others)


def _shapes(record: CallRecord) -> list[dict[str, tuple[int, ...]]]:
    """Return, for each call in the first step, the shapes of the arguments that are tensors."""
    return [
        {path: tuple(leaf.shape) for path, leaf in call.leaves.items() if isinstance(leaf, Tensor)}
        for call in record.steps[0].calls
    ]
