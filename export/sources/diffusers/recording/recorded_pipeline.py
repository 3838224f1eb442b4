"""A pipeline with what its recordings show: relations, arguments and the rules of its scheduler."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from msgspec import to_builtins
from torch import nn

from fewstep.export.sources.diffusers.recording.adapter import RecordedNetwork, read_variance
from fewstep.export.sources.diffusers.recording.arguments import (
    BATCH,
    ENCODERS,
    NetworkArguments,
    find_second_axes,
    sort_arguments,
)
from fewstep.export.sources.diffusers.recording.call_record import LEARNED, CallRecord
from fewstep.export.sources.diffusers.recording.combination import (
    CombinationError,
    GuidedFrames,
    MatchedNorm,
    adds_x,
    remove_x,
    select_rows,
)
from fewstep.export.sources.diffusers.recording.components import BuiltPipeline
from fewstep.export.sources.diffusers.recording.guidance.projection import SMALL, ProjectedGuidance
from fewstep.export.sources.diffusers.recording.held_part import find_held_part, is_kept_clean
from fewstep.export.sources.diffusers.recording.network_form import FormedNetwork, find_forms
from fewstep.export.sources.diffusers.recording.networks import (
    RecordedNetworks,
    check_parts,
    find_boundary,
    find_parts,
    split_record,
)
from fewstep.export.sources.diffusers.recording.record import CallError, record, record_times
from fewstep.export.sources.diffusers.recording.relations import Relations, branch_calls, gets_x
from fewstep.export.sources.diffusers.recording.row_lists import find_row_lists, shorten_lists
from fewstep.export.sources.diffusers.recording.scheduler.schedule_rules import find_rules
from fewstep.export.sources.diffusers.recording.settings import (
    MORE_STEPS,
    PROMPT,
    STEP_COUNT,
    STEP_NUMBER,
    STEPS,
    STEPS_OF_TWO,
    CallSettings,
    choose_settings,
)
from fewstep.export.sources.diffusers.recording.stand_ins import UNRECORDED, recording_error
from fewstep.export.sources.diffusers.recording.times.inverted_flow import without_inversion
from fewstep.export.sources.diffusers.recording.usual_call import record_usual_call
from fewstep.plans.configs.pipelines import RECORDED
from fewstep.plans.errors import UserError

SAME_START = 1e-4  # largest difference of two first x, relative to the deviation of one
LINEAR_GUIDER = "ClassifierFreeGuidance"  # of diffusers


@dataclass(frozen=True)
class Part:
    """What was derived from the recordings about one of the networks."""

    relations: Relations
    arguments: NetworkArguments


class RecordedPipeline:
    """A pipeline with the relations and the arguments that were found by comparing its recordings.

    holds: whether it sets a part of x to an image after each step.
    holds_clean: whether it sets it to the image without noise.
    starts_from_picture: whether it starts from an image to which it adds noise.
    heads: 2 if its scheduler reads a learned variance, otherwise 1.
    weights_of_more_steps: the weights of the network's outputs in each of `MORE_STEPS` steps.
    rules_error: why no rules describe what it passes to its scheduler, or None.
    """

    def __init__(
        self,
        built: BuiltPipeline,
        other: BuiltPipeline,
        settings: CallSettings,
        scheduler: Mapping[str, Any],
        first: CallRecord | None = None,
    ) -> None:
        """Record the call of a pipeline with all settings. Raises UserError for behaviour that no relation describes.

        other: the same pipeline, with encoders that return other values. first: the recording of the usual call.
        """
        name, scheduler = built.name, without_inversion(scheduler)
        self.built, self.settings = built, settings
        base = first or record(built, settings.of(), 0)
        reseeded = record(built, settings.of(), 1, deviation=SMALL)
        found = find_parts(name, base, reseeded)
        variants: dict[str, CallRecord] = {}
        for seed, setting in enumerate(settings.variants, 2):
            variants[setting] = record(built, settings.of(setting), seed)
            check_parts(name, found, variants[setting], setting)
        self.batch, batch = self._record_batch(base, found)
        if batch is not None:
            second = find_second_axes(next(iter(found.values())), base, batch)
            found = {component: replace(each, second_axes=second) for component, each in found.items()}
        variants |= {} if batch is None else {BATCH: batch}
        variants[ENCODERS] = record(other, settings.of(), 0)
        self._check_start(base, variants[ENCODERS])
        longer = (
            [record(built, settings.of(None, {STEP_COUNT: MORE_STEPS}), 99)] if STEP_COUNT in settings.usual else []
        )
        self.weights_of_more_steps = tuple(
            weights for each in longer for weights in check_parts(name, found, each, STEP_NUMBER)
        )
        records = [base, reseeded, *variants.values(), *longer]
        self.row_lists: frozenset[str] = (
            frozenset() if batch is None else find_row_lists(next(iter(found.values())), base, batch)
        )
        self.parts = self._sort_arguments(found, base, variants)
        self.heads = _count_heads(name, records, self.parts) if scheduler.get("variance_type") in LEARNED else 1
        self.until = find_boundary(name, built.pipeline, records, list(found))
        self.change_rule = self._change_rule()
        self.rules_error: UserError | None = None
        rules: Mapping[str, Any] = {}
        try:
            rules = find_rules(name, records, scheduler, self._record_sigmas)
        except UserError as error:
            self.rules_error = error
        self.scheduler = {**scheduler, RECORDED: {**rules, **self.change_rule}}
        self.x_shape = tuple(base.steps[0].sample.shape[1:])
        mask = find_held_part(name, base)
        self.holds, self.holds_clean = mask is not None, mask is not None and is_kept_clean(mask, base)
        self.starts_from_picture = base.starts_from_picture

    @property
    def relations(self) -> Relations:
        """The relations of the network of the last steps."""
        return list(self.parts.values())[-1].relations

    @property
    def arguments(self) -> NetworkArguments:
        """The arguments of the network of the last steps."""
        return list(self.parts.values())[-1].arguments

    def wrap(self, networks: Mapping[str, nn.Module]) -> RecordedNetworks:
        """Return the networks with the signature of a denoiser."""
        modules = {name: self.wrap_one(name, networks[name]) for name in self.parts}
        return RecordedNetworks(modules, self.until)

    def wrap_one(self, component: str, network: nn.Module) -> RecordedNetwork:
        """Return one of the networks with the signature of a denoiser."""
        form, part = self.built.form, self.parts[component]
        return RecordedNetwork(
            network if form is None else FormedNetwork(network, form), part.relations, part.arguments, self.heads
        )

    def _sort_arguments(
        self, found: Mapping[str, Relations], base: CallRecord, variants: Mapping[str, CallRecord]
    ) -> dict[str, Part]:
        """Return the relations and the sorted arguments of each network, as found in the steps that call it."""
        name = self.built.name

        def part(record: CallRecord, component: str) -> CallRecord:
            return shorten_lists(split_record(name, record)[component], self.row_lists)

        return {
            component: Part(
                relations,
                sort_arguments(
                    name,
                    relations,
                    part(base, component),
                    {setting: part(each, component) for setting, each in variants.items()},
                ),
            )
            for component, relations in found.items()
        }

    def _change_rule(self) -> dict[str, Any]:
        """Return the field that `plans.configs.pipelines.read_recorded` reads for a change of the guided output."""
        rules = [self._change_rule_of(part) for part in self.parts.values()]
        if any(each != rules[0] for each in rules):
            raise recording_error(f"{self.built.name} changes the guided output of one of its networks only")
        return rules[0]

    def _change_rule_of(self, part: Part) -> dict[str, Any]:
        change = part.relations.combination.change
        if change is None:
            return {}
        if change.branch != part.arguments.conditional:
            raise recording_error(f"{self.built.name} changes its guided output by a branch other than the conditional")
        if isinstance(change, ProjectedGuidance):
            return {"projection": to_builtins(change.form)}
        if isinstance(change, GuidedFrames):
            return {"guided_frames": change.first}
        return {"norm_axis": change.axis} if isinstance(change, MatchedNorm) else {"guided_channels": change.count}

    def _check_start(self, base: CallRecord, encoded: CallRecord) -> None:
        """Raise UserError if the first x depends on the prompt, or on the outputs of the encoders, although the seed is
        that of `base`.

        A sample of a bundle starts from noise alone, or from an image to which the schedule adds noise. Some pipelines
        draw noise that does not follow from the seed, so that samples cannot be compared.
        """
        same_seed = [encoded]
        if PROMPT in self.settings.variants:
            same_seed.append(record(self.built, self.settings.of(PROMPT), 0))
        if all(starts_alike(base, each) for each in same_seed) or base.starts_from_picture:
            return
        if starts_alike(base, record(self.built, self.settings.of(), 0)):
            raise recording_error(f"{self.built.name} starts from a different x when the prompt or the image changes")

    def _record_batch(
        self, base: CallRecord, found: Mapping[str, Relations]
    ) -> tuple[Mapping[str, Any], CallRecord | None]:
        """Record a larger batch. Each setting of `settings.batches` is tried, until the pipeline accepts one and
        returns more samples. Return that setting and its recording, or ({}, None) if there is none."""
        for settings in self.settings.batches:
            try:
                larger = record(self.built, self.settings.of(None, settings), 98)
            except UserError:
                continue
            if len(larger.steps[0].sample) > len(base.steps[0].sample):
                check_parts(self.built.name, found, larger, BATCH)
                return settings, larger
        return {}, None

    def _record_sigmas(self, count: int) -> Sequence[float] | None:
        """Return the sigmas that the pipeline passes to its scheduler for `count` steps. None if it passes none, or
        refuses this number of steps."""
        try:
            times = record_times(self.built, self.settings.of(None, {STEP_COUNT: count}))
        except Exception:  # some pipelines refuse few steps
            return None
        sigmas: Sequence[float] | None = times.get("sigmas")
        return sigmas


def _count_heads(name: str, records: Iterable[CallRecord], parts: Mapping[str, Part]) -> int:
    """Return the number of outputs: 2 if the scheduler reads a learned variance, otherwise 1. Raises UserError unless
    the variance is the second half of the output of the conditional branch."""
    steps = [step for record in records for step in record.steps]
    if all(step.variance is None for step in steps):
        return 1
    for step in steps:
        part = parts[step.calls[0].component]
        call, branch = list(branch_calls(step, part.relations.x))[part.arguments.conditional]
        output = select_rows(call.output, branch, len(step.sample))
        found = read_variance(output, step.sample) if output.dim() == step.sample.dim() else None
        if found is None or step.variance is None or not torch.equal(found, step.variance):
            what = f"{name} passes its scheduler a variance that is not the second half of its conditional output"
            raise recording_error(what)
    return 2


def starts_alike(one: CallRecord, other: CallRecord) -> bool:
    """Return True if two recordings have the same first x up to rounding, or first x of different shapes."""
    first, second = one.steps[0].sample, other.steps[0].sample
    return first.shape != second.shape or bool((first - second).abs().max() <= SAME_START * first.std())


def record_pipeline(
    built: BuiltPipeline, other: BuiltPipeline, given: Mapping[str, Any], scheduler: Mapping[str, Any]
) -> RecordedPipeline:
    """Choose the usual call of a pipeline, and record it with all settings. `given` are arguments that the user chose,
    and `other` is the pipeline with encoders that return other values."""
    try:
        settings, first = record_usual_call(built, given)
        try:
            return _record_settings(built, other, settings, scheduler, first)
        except CombinationError:
            if STEP_COUNT in given or settings.usual.get(STEP_COUNT) != STEPS:
                raise
            # guidance may change at a later step than those of the usual call
            settings = choose_settings(built.pipeline, given, replace(settings.forms, steps=STEPS_OF_TWO))
            return _record_settings(built, other, settings, scheduler, record(built, settings.of(), 0))
    except UserError as error:
        raise explain_given(name_guider(error, built), built, given) from error


def _record_settings(
    built: BuiltPipeline, other: BuiltPipeline, settings: CallSettings, scheduler: Mapping[str, Any], first: CallRecord
) -> RecordedPipeline:
    """Record a pipeline with these settings. `first` is the recording of the usual call."""
    if not gets_x(first):
        built = find_form(built, first, record(built, settings.of(), 1))
        first = first if built.form is None else built.form.rewrite(built.name, first)
    if adds_x(first):
        built, first = replace(built, converts=True), remove_x(first)
    other = replace(other, form=built.form, converts=built.converts)
    return RecordedPipeline(built, other, settings, scheduler, first)


def name_guider(error: UserError, built: BuiltPipeline) -> UserError:
    """Return an error about how outputs are combined with the name of the pipeline's guider added to it. If the
    pipeline has no guider, or the error is about something else, return it unchanged."""
    guider = getattr(built.pipeline, "guider", None)
    if guider is None or not isinstance(error, CombinationError):
        return error
    fix = f"return the pipeline from a function, with guider={LINEAR_GUIDER}(): docs/export/diffusers.md, A pipeline of"
    return UserError(f"{error.what}: its guider is {type(guider).__name__}", f"{fix} your class")


def find_form(built: BuiltPipeline, base: CallRecord, reseeded: CallRecord) -> BuiltPipeline:
    """Return the pipeline with the `NetworkForm` that describes in which layout its network receives x; unchanged if no
    argument of the network contains x. The recordings differ only in their seed. Raises UserError if no layout explains
    its steps."""
    if not base.steps[0].calls or not reseeded.steps[0].calls:
        return built
    error: UserError | None = None
    for form in find_forms(built.name, base, reseeded):
        try:
            find_parts(built.name, *(form.rewrite(built.name, each) for each in (base, reseeded)))
        except UserError as own:
            error = error or own
        else:
            return replace(built, form=form)
    if error is not None:
        raise error
    return built


def explain_given(error: UserError, built: BuiltPipeline, given: Mapping[str, Any]) -> UserError:
    """Return the error of a recording. If the pipeline's call failed, and its usual call without the given arguments
    runs or fails in another way, the fix names these arguments. Whether the usual call can be recorded is not
    tested."""
    if not given or not isinstance(error, CallError):
        return error
    values = {name: "@FILE.npy" if isinstance(value, np.ndarray) else value for name, value in given.items()}
    options = " ".join(f"--call {name}={value}" for name, value in values.items())
    try:
        record_usual_call(built, {})
    except UserError as other:
        return error if other.what == error.what else UserError(error.what, f"check {options}, or {UNRECORDED}")
    return UserError(error.what, f"the call works without {options}: give another value, or leave it out")
