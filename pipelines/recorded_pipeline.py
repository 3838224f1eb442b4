"""A pipeline with what its recordings show: relations, arguments and the rules of its scheduler."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from msgspec.structs import replace as with_fields
from torch import nn

from fewstep.pipelines.given_arguments import explain_given
from fewstep.pipelines.recording.added_x import adds_x, remove_x
from fewstep.pipelines.recording.call_record import LEARNED, CallRecord, Joint, select_rows
from fewstep.pipelines.recording.components import BuiltPipeline
from fewstep.pipelines.recording.inverted_flow import without_inversion
from fewstep.pipelines.recording.joined_networks import JoinedNetwork, find_joint
from fewstep.pipelines.recording.record import record, record_times
from fewstep.pipelines.recording.settings import (
    MORE_STEPS,
    PROMPT,
    STEP_COUNT,
    STEP_NUMBER,
    STEPS,
    STEPS_OF_TWO,
    CallSettings,
    choose_settings,
)
from fewstep.pipelines.recording.stand_ins import LengthError, recording_error
from fewstep.pipelines.recording.usual_call import record_usual_call
from fewstep.pipelines.relations.adapter import RecordedNetwork, read_variance
from fewstep.pipelines.relations.argument_rows import find_second_axes
from fewstep.pipelines.relations.arguments import BATCH, ENCODERS, NetworkArguments, sort_arguments
from fewstep.pipelines.relations.combination import CombinationError
from fewstep.pipelines.relations.held_part import find_held_part, is_kept_clean
from fewstep.pipelines.relations.labels import Labels
from fewstep.pipelines.relations.networks import RecordedNetworks, check_parts, find_boundary, find_parts, split_record
from fewstep.pipelines.relations.projection import SMALL
from fewstep.pipelines.relations.relations import Relations, branch_calls
from fewstep.pipelines.relations.row_lists import find_row_lists, shorten_lists
from fewstep.pipelines.relations.schedule_rules import find_rules
from fewstep.plans.configs.pipelines import RECORDED
from fewstep.plans.configs.recorded import Recorded
from fewstep.plans.errors import UserError
from fewstep.plans.shaping import GuidedShaping

SAME_START = 1e-4  # largest difference of two first x, relative to the deviation of one
LINEAR_GUIDER = "ClassifierFreeGuidance"  # of diffusers

FindLayout = Callable[[BuiltPipeline, CallSettings, CallRecord], BuiltPipeline]


@dataclass(frozen=True)
class Part:
    """What was derived from the recordings about one of the networks. `joint`: how it is joined with a second one that
    runs before it, or None."""

    relations: Relations
    arguments: NetworkArguments
    joint: Joint | None = None


@dataclass(frozen=True)
class Records:
    """The recordings of a pipeline's call.

    base, reseeded: the usual call with two seeds. In the second, the outputs of the network are small.
    variants: further recordings by the setting that they change.
    longer: the call with more steps, if it takes their number.
    batch: the settings of the variant with more samples; none if the pipeline takes no more.
    """

    base: CallRecord
    reseeded: CallRecord
    variants: Mapping[str, CallRecord]
    longer: tuple[CallRecord, ...]
    batch: Mapping[str, Any]

    def __iter__(self) -> Iterator[CallRecord]:
        return iter((self.base, self.reseeded, *self.variants.values(), *self.longer))


@dataclass(frozen=True)
class RecordedPipeline:
    """A pipeline with the relations and the arguments that were found by comparing its recordings.

    parts: what was found about each of its networks, by component, in the order of the steps.
    row_lists: the paths of the arguments that are lists with one entry for each row.
    weights_of_more_steps: the weights of the network's outputs in each of `MORE_STEPS` steps.
    batch: the settings of a call for more samples.
    heads: 2 if its scheduler reads a learned variance, otherwise 1.
    until: the log-SNR below which the first of two networks runs; None for one network.
    config: the config of its scheduler, without the rules.
    rules: what it passes to its scheduler. rules_error: why nothing but its shaping could be found, or None.
    x_shape: the shape of a sample.
    holds: whether it sets a part of x to an image after each step.
    holds_clean: whether it sets it to the image without noise.
    starts_from_picture: whether it starts from an image to which it adds noise.
    """

    built: BuiltPipeline
    settings: CallSettings
    parts: Mapping[str, Part]
    row_lists: frozenset[str]
    weights_of_more_steps: tuple[tuple[float, ...], ...]
    batch: Mapping[str, Any]
    heads: int
    until: float | None
    config: Mapping[str, Any]
    rules: Recorded
    rules_error: UserError | None
    x_shape: tuple[int, ...]
    holds: bool
    holds_clean: bool
    starts_from_picture: bool

    @property
    def scheduler(self) -> dict[str, Any]:
        """The config of the scheduler, with the rules."""
        return {**self.config, RECORDED: self.rules.to_config()}

    @property
    def relations(self) -> Relations:
        """The relations of the network of the last steps."""
        return list(self.parts.values())[-1].relations

    @property
    def arguments(self) -> NetworkArguments:
        """The arguments of the network of the last steps."""
        return list(self.parts.values())[-1].arguments

    def load(self, component: str, load: Callable[[str], nn.Module]) -> nn.Module:
        """Return one of the networks as `load` returns it, joined with the second network that runs before it."""
        network, joint = load(component), self.parts[component].joint
        return network if joint is None else JoinedNetwork(network, load(joint.component), joint)

    def wrap(self, networks: Mapping[str, nn.Module]) -> RecordedNetworks:
        """Return the networks with the signature of a denoiser."""
        modules = {name: self.wrap_one(name, networks[name]) for name in self.parts}
        return RecordedNetworks(modules, self.until)

    def wrap_one(self, component: str, network: nn.Module, unread: int = 0) -> RecordedNetwork:
        """Return one of the networks with the signature of a denoiser, which takes `unread` conditions more."""
        part = self.parts[component]
        return RecordedNetwork(network, part.relations, part.arguments, self.heads, self.built.form, unread)


def record_all(
    built: BuiltPipeline, other: BuiltPipeline, settings: CallSettings, pair: Sequence[CallRecord]
) -> Records:
    """Record the call of a pipeline with all settings.

    other: the same pipeline, with encoders that return other values. pair: the recordings of the usual call. Raises
    UserError if the first x depends on more than the seed.
    """
    base, reseeded = pair
    variants = {setting: record(built, settings.of(setting), seed) for seed, setting in enumerate(settings.variants, 2)}
    batch, larger = _record_batch(built, settings, base)
    variants |= {} if larger is None else {BATCH: larger}
    variants[ENCODERS] = record(other, settings.of(), 0)
    _check_start(built, settings, base, variants[ENCODERS])
    has_count = STEP_COUNT in settings.usual
    longer = (record(built, settings.of(None, {STEP_COUNT: MORE_STEPS}), 99),) if has_count else ()
    return Records(base, reseeded, variants, longer, batch)


def _record_batch(
    built: BuiltPipeline, settings: CallSettings, base: CallRecord
) -> tuple[Mapping[str, Any], CallRecord | None]:
    """Record a larger batch. Each setting of `settings.batches` is tried, until the pipeline accepts one and returns
    more samples. Return that setting and its recording, or ({}, None) if there is none."""
    for batch in settings.batches:
        try:
            larger = record(built, settings.of(None, batch), 98)
        except UserError:
            continue
        if len(larger.steps[0].sample) > len(base.steps[0].sample):
            return batch, larger
    return {}, None


def _check_start(built: BuiltPipeline, settings: CallSettings, base: CallRecord, encoded: CallRecord) -> None:
    """Raise UserError if the first x depends on the prompt, or on the outputs of the encoders, although the seed is
    that of `base`.

    A sample of a bundle starts from noise alone, or from an image to which the schedule adds noise. Some pipelines draw
    noise that does not follow from the seed, so that samples cannot be compared.
    """
    same_seed = [encoded]
    if PROMPT in settings.variants:
        same_seed.append(record(built, settings.of(PROMPT), 0))
    if all(starts_alike(base, other) for other in same_seed) or base.starts_from_picture:
        return
    if starts_alike(base, record(built, settings.of(), 0)):
        raise recording_error(f"{built.name} starts from a different x when the prompt or the image changes")


def relate(
    built: BuiltPipeline,
    settings: CallSettings,
    relations: Mapping[str, Relations],
    records: Records,
    config: Mapping[str, Any],
) -> RecordedPipeline:
    """Return the pipeline with what its recordings show, except the rules of its scheduler.

    relations: those of each network in the usual call, which are checked in the other recordings. config: that of
    the scheduler. Raises UserError for behaviour that no relation describes.
    """
    name, base, larger = built.name, records.base, records.variants.get(BATCH)
    for setting, variant in records.variants.items():
        if setting != ENCODERS:
            check_parts(name, relations, variant, setting)
    row_lists, first = frozenset[str](), next(iter(relations.values()))
    if larger is not None:
        second = find_second_axes(first, base, larger)
        relations = {component: replace(own, second_axes=second) for component, own in relations.items()}
        row_lists = find_row_lists(first, base, larger)
    weights = tuple(row for longer in records.longer for row in check_parts(name, relations, longer, STEP_NUMBER))
    parts = _sort_arguments(built, relations, records, row_lists)
    mask = find_held_part(name, base)
    return RecordedPipeline(
        built,
        settings,
        parts,
        row_lists,
        weights,
        records.batch,
        heads=_count_heads(name, records, parts) if config.get("variance_type") in LEARNED else 1,
        until=find_boundary(name, built.pipeline, list(records), list(relations)),
        config=config,
        rules=Recorded(shaping=_find_shaping(name, parts)),
        rules_error=None,
        x_shape=tuple(base.steps[0].sample.shape[1:]),
        holds=mask is not None,
        holds_clean=mask is not None and is_kept_clean(mask, base),
        starts_from_picture=base.starts_from_picture,
    )


def _sort_arguments(
    built: BuiltPipeline, found: Mapping[str, Relations], records: Records, row_lists: frozenset[str]
) -> dict[str, Part]:
    """Return the relations and the sorted arguments of each network, as found in the steps that call it."""
    name, settings = built.name, list(built.settings.values())

    def part(record: CallRecord, component: str) -> CallRecord:
        return shorten_lists(split_record(name, record)[component], row_lists)

    parts = {}
    for component, relations in found.items():
        variants = {setting: part(variant, component) for setting, variant in records.variants.items()}
        embeddings = built.denoisers[component].embeddings.items()
        labels = {path: Labels(name, count, settings) for path, count in embeddings}
        base = part(records.base, component)
        joint = find_joint(name, base)
        parts[component] = Part(relations, sort_arguments(name, relations, base, variants, labels), joint)
    return parts


def _find_shaping(name: str, parts: Mapping[str, Part]) -> GuidedShaping | None:
    """Return the shaping of the guided output, or None. Raises UserError unless it is that of all networks, by their
    conditional branch."""
    changes = [part.relations.combination.change for part in parts.values()]
    if any(change != changes[0] for change in changes):
        raise recording_error(f"{name} changes the guided output of one of its networks only")
    for change, part in zip(changes, parts.values(), strict=True):
        if change is not None and change.branch != part.arguments.conditional:
            raise recording_error(f"{name} changes its guided output by a branch other than the conditional")
    return None if changes[0] is None else changes[0].shaping


def add_rules(recorded: RecordedPipeline, records: Records) -> RecordedPipeline:
    """Return the pipeline with what it passes to its scheduler, or with the reason why no rules describe that."""
    built, settings = recorded.built, recorded.settings

    def record_sigmas(count: int) -> Sequence[float] | None:
        """Return the sigmas of a number of steps. None if the pipeline passes none, or refuses this number."""
        try:
            times = record_times(built, settings.of(None, {STEP_COUNT: count}))
        except Exception:  # some pipelines refuse few steps
            return None
        sigmas: Sequence[float] | None = times.get("sigmas")
        return sigmas

    try:
        rules = find_rules(built.name, list(records), recorded.config, record_sigmas)
    except UserError as error:
        return replace(recorded, rules_error=error)
    return replace(recorded, rules=with_fields(rules, shaping=recorded.rules.shaping))


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
        variance = read_variance(output, step.sample) if output.dim() == step.sample.dim() else None
        if variance is None or step.variance is None or not torch.equal(variance, step.variance):
            what = f"{name} passes its scheduler a variance that is not the second half of its conditional output"
            raise recording_error(what)
    return 2


def starts_alike(one: CallRecord, other: CallRecord) -> bool:
    """Return True if two recordings have the same first x up to rounding, or first x of different shapes."""
    first, second = one.steps[0].sample, other.steps[0].sample
    return first.shape != second.shape or bool((first - second).abs().max() <= SAME_START * first.std())


def record_pipeline(
    built: BuiltPipeline,
    other: BuiltPipeline,
    given: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    find_layout: FindLayout,
    pads_texts: bool = True,
) -> RecordedPipeline:
    """Choose the usual call of a pipeline, and record it with all settings. `given` are arguments that the user chose,
    `other` is the pipeline with encoders that return other values, and `find_layout` finds how the usual call, of which
    it gets the recording, packs latents and feeds them to the network. Texts of other lengths than the longest are
    padded if `pads_texts`. Raises LengthError if the network takes no padded ones."""
    try:
        settings, first = record_usual_call(built, given, pads_texts)
        try:
            return _record_settings(built, other, settings, scheduler, first, find_layout)
        except CombinationError:
            if STEP_COUNT in given or settings.usual.get(STEP_COUNT) != STEPS:
                raise
            # guidance may change at a later step than those of the usual call
            settings = choose_settings(built.pipeline, given, replace(settings.forms, steps=STEPS_OF_TWO))
            return _record_settings(built, other, settings, scheduler, record(built, settings.of(), 0), find_layout)
    except LengthError:
        raise
    except UserError as error:
        raise explain_given(name_guider(error, built), built, given) from error


def _record_settings(
    built: BuiltPipeline,
    other: BuiltPipeline,
    settings: CallSettings,
    scheduler: Mapping[str, Any],
    first: CallRecord,
    find_layout: FindLayout,
) -> RecordedPipeline:
    """Record a pipeline with these settings. `first` is the recording of the usual call."""
    built = find_layout(built, settings, first)
    first = first if built.packing is None else built.packing.unpack_record(first)
    first = first if built.form is None else built.form.rewrite(built.name, first)
    if adds_x(first):
        built, first = replace(built, converts=True), remove_x(first)
    other = other.with_layout_of(built)
    pair = first, record(built, settings.of(), 1, deviation=SMALL)
    relations = find_parts(built.name, *pair)
    records = record_all(built, other, settings, pair)
    return add_rules(relate(built, settings, relations, records, without_inversion(scheduler)), records)


def name_guider(error: UserError, built: BuiltPipeline) -> UserError:
    """Return an error about how outputs are combined with the name of the pipeline's guider added to it. If the
    pipeline has no guider, or the error is about something else, return it unchanged."""
    guider = getattr(built.pipeline, "guider", None)
    if guider is None or not isinstance(error, CombinationError):
        return error
    fix = f"return the pipeline from a function, with guider={LINEAR_GUIDER}(): docs/export/diffusers.md, A pipeline of"
    return UserError(f"{error.what}: its guider is {type(guider).__name__}", f"{fix} your class")
