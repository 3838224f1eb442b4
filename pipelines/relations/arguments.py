"""Sort the arguments of a recorded denoiser into conditions and constants, by recordings that differ in one setting."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from msgspec.structs import replace as with_fields
from torch import Tensor
from torch.utils import _pytree as pytree

from fewstep.pipelines.recording.call_record import INPUTS_OF, CallRecord, NetworkCall, is_of_second
from fewstep.pipelines.recording.label_arguments import LABELS
from fewstep.pipelines.recording.settings import (
    ALONE,
    LENGTH,
    OTHER,
    OTHER_SHORTNESS,
    PICTURE,
    SHORTNESS,
    STEP_NUMBER,
)
from fewstep.pipelines.recording.stand_ins import recording_error
from fewstep.pipelines.relations.argument_rows import branch_values, find_repeats, rows_first
from fewstep.pipelines.relations.labels import Labels
from fewstep.pipelines.relations.relations import Relations, branch_calls, is_part, may_be_encoded, same
from fewstep.pipelines.relations.size_rules import SizeRule
from fewstep.pipelines.relations.text_lengths import find_lengths, is_zeros
from fewstep.plans.guidance import COND, UNCOND
from fewstep.runtime.bundle.manifest import Condition, Size

BATCH = "batch"  # a variant of settings
ENCODERS = "weights of the encoders"
BY_CONTENT = (
    "prompt",
    LENGTH,
    SHORTNESS,
    OTHER,
    OTHER_SHORTNESS,
    ENCODERS,
    PICTURE,
    LABELS,
)  # variants that change conditions
MOST_VALUES = 2**24  # largest number of elements of one condition
MOST_DEFAULTS = 64  # largest number of elements of a default, such as the weight of a distilled guidance


@dataclass(frozen=True)
class Argument:
    """An argument of the network that is neither x nor the time.

    value: if `repeats` is set, the value of one sample; otherwise the whole argument.
    repeats: the number of times that each sample's row is repeated; 0 if the argument has no rows.
    condition: None for a constant.
    counts: the path and the axis of the argument whose length it counts from 0, or has zeros for; None for any other.
    has_zeros: it has zeros for that length.
    of_size: the rule by which it follows the height and width of x; None for any other. `value` is for the usual size.
    places: the numbers of `value` that the condition replaces, counted in its last axes; empty if it replaces all.
    """

    path: str
    value: Any
    repeats: int = 0
    condition: Condition | None = None
    counts: tuple[str, int] | None = None
    has_zeros: bool = False
    of_size: SizeRule | None = None
    places: tuple[int, ...] = ()

    @property
    def dtype(self) -> torch.dtype | None:
        return self.value.dtype if isinstance(self.value, Tensor) else None


@dataclass(frozen=True)
class NetworkArguments:
    """All arguments with which a pipeline calls a network.

    paths: the paths of the argument's tensors and values, in order. `structure` rebuilds the arguments from these.
    time_shapes: for each time input, its shape for one sample.
    repeats: for each argument with rows, the number of consecutive equal rows that it has per row of x.
    sizes: the lengths of texts that its conditions follow.
    """

    paths: tuple[str, ...]
    structure: pytree.TreeSpec
    arguments: Mapping[str, Argument]
    repeats: Mapping[str, int]
    conditional: int
    unconditional: int | None
    time_shapes: Mapping[str, tuple[int, ...]]
    sizes: tuple[Size, ...] = ()

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return tuple(argument.condition for argument in self.arguments.values() if argument.condition is not None)


def sort_arguments(
    name: str,
    found: Relations,
    base: CallRecord,
    variants: Mapping[str, CallRecord],
    labels: Mapping[str, Labels] = MappingProxyType({}),
) -> NetworkArguments:
    """Sort the arguments of a network. `variants` are recordings by the setting that they change, and `labels` are
    those of the arguments that the network looks up in a table.

    Raises UserError if the recordings do not show what an argument depends on, or if it cannot be one value per sample.
    """
    paths = _common_paths(name, found, base)
    if BATCH in variants and variants[BATCH].steps[0].calls[0].structure != base.steps[0].calls[0].structure:
        raise recording_error(f"{name} passes different arguments to its network for two samples than for one")
    repeats = find_repeats(name, found, base, variants.get(BATCH))
    recordings = Recordings(name, found, base, variants, repeats, labels)
    lengths = find_lengths(name, recordings.tensors(), repeats)
    conditional, unconditional = recordings.name_branches()
    call, _ = recordings.branch(conditional)
    arguments = {}
    for path, value in rows_first(call, found).items():
        if path in (found.x, *found.times):
            continue
        if path in lengths.positions:
            size = lengths.positions[path]
            counted = next((of, axis) for of, axes in lengths.axes.items() for axis in axes if axes[axis] == size)
            arguments[path] = Argument(path, value, counts=counted, has_zeros=is_zeros(value))
        elif not isinstance(value, Tensor):
            arguments[path] = recordings.plain_argument(path, value)
        else:
            arguments[path] = recordings.tensor_argument(path, conditional)
    largest = {size.name: size.high for size in lengths.sizes}
    for path, axes in lengths.axes.items():
        arguments[path] = _follow(name, arguments[path], axes, largest)
    if unconditional is not None:
        arguments = {path: recordings.with_null(each, unconditional) for path, each in arguments.items()}
    arguments = {path: _describe_labels(each, labels) for path, each in arguments.items()}
    shapes = {path: tuple(torch.as_tensor(call.leaves[path]).shape[1:]) for path in found.times}
    return NetworkArguments(
        paths, call.structure, arguments, repeats, conditional, unconditional, shapes, lengths.sizes
    )


def _describe_labels(argument: Argument, labels: Mapping[str, Labels]) -> Argument:
    own, condition = labels.get(argument.path), argument.condition
    return argument if own is None or condition is None else replace(argument, condition=own.describe(condition))


def _follow(name: str, argument: Argument, axes: Mapping[int, str], largest: Mapping[str, int]) -> Argument:
    """Return an argument whose axes have the lengths of texts. Raises UserError if it is no condition."""
    condition = argument.condition
    if condition is None or condition.default is not None:
        raise recording_error(f"{name}: the length of the network's argument {argument.path} follows a setting")
    shape = tuple(largest[axes[axis]] if axis in axes else size for axis, size in enumerate(condition.shape))
    return replace(argument, condition=with_fields(condition, shape=shape, follows=dict(axes)))


def _common_paths(name: str, found: Relations, base: CallRecord) -> tuple[str, ...]:
    """Return the paths of the arguments. All calls must have the same ones, in the same structure."""
    calls = [call for step in base.steps for call in step.calls]
    for call in calls[1:]:
        if call.structure != calls[0].structure:
            other = sorted(set(call.leaves) ^ set(calls[0].leaves))
            raise recording_error(f"{name} passes different arguments to its network in some calls: {', '.join(other)}")
    return tuple(calls[0].leaves)


@dataclass(frozen=True)
class Recordings:
    """A recording of a pipeline, and further recordings, each with one setting changed, by the name of the setting.
    `labels` are those of the arguments that the network looks up in a table."""

    name: str
    found: Relations
    base: CallRecord
    variants: Mapping[str, CallRecord]
    repeats: Mapping[str, int]
    labels: Mapping[str, Labels]

    def tensors(self) -> dict[str, list[list[Tensor]]]:
        """Return the values of the arguments that are tensors, in each branch of each recording but that with more
        samples. x and the times are left out."""
        records = [self.base, *(record for setting, record in self.variants.items() if setting != BATCH)]
        paths = [
            path for path in rows_first(self.branch(0)[0], self.found) if path not in (self.found.x, *self.found.times)
        ]
        values = {path: [self.values(record, path) for record in records] for path in paths}
        return {
            path: each
            for path, each in values.items()
            if all(isinstance(value, Tensor) for branches in each for value in branches)
        }

    def branch(self, number: int) -> tuple[NetworkCall, int]:
        """Return the call of a branch in the first step, and the number of the branch in that call."""
        return list(branch_calls(self.base.steps[0], self.found.x))[number]

    def values(self, record: CallRecord, path: str) -> list[Any]:
        """Return an argument's value in each branch of the first step."""
        return list(branch_values(record.steps[0], self.found, path, self.repeats.get(path, 0)))

    def others(self, path: str) -> dict[str, list[Any]]:
        """Return an argument's value in each branch of all other recordings, by the setting that was changed. The
        recording with more samples is left out."""
        return {setting: self.values(record, path) for setting, record in self.variants.items() if setting != BATCH}

    def name_branches(self) -> tuple[int, int | None]:
        """Return the numbers of the branches with and without the caller's conditions. The first changes with the
        prompt (or with the image or the labels, if there is no prompt; or with one array alone, such as `image_embeds`
        but not `negative_image_embeds`); the second does not. It is None if no branch, or more than one, ignores the
        conditions. Raises UserError if no recording tells the branches apart."""
        if self.found.branches == 1:
            return 0, None
        arrays = [
            variant
            for variant in self.variants
            if variant.startswith(ALONE) and not variant.startswith(ALONE + "negative")
        ]
        for setting in ("prompt", "image", LABELS, *arrays):
            changes = [self._changes_with(setting, branch) for branch in range(self.found.branches)]
            if any(changes) and not all(changes):
                conditional = changes.index(True)
                others = [branch for branch, changed in enumerate(changes) if not changed]
                return conditional, others[0] if len(others) == 1 else None
        raise recording_error(
            f"{self.name} calls its network for {self.found.branches} branches, and neither the prompt, nor an "
            "image, nor a label, nor an array changes exactly one of them"
        )

    def _changes_with(self, setting: str, branch: int) -> bool:
        other = self.variants.get(setting)
        if other is None:
            return False
        call, _ = self.branch(branch)
        paths = [path for path in rows_first(call, self.found) if path not in (self.found.x, *self.found.times)]
        if setting == "prompt":  # an encoded picture has noise of its own in each recording
            paths = [path for path in paths if not self._may_have_noise(path)]
        pairs = ((self.values(self.base, path)[branch], self.values(other, path)[branch]) for path in paths)
        return any(not same(*_cut_equally(*pair)) for pair in pairs)

    def _may_have_noise(self, path: str) -> bool:
        """Return whether an argument may have noise of its own in each recording."""
        return may_be_encoded(path) or path in self.found.drawn

    def plain_argument(self, path: str, value: Any) -> Argument:
        """Return an argument that is not a tensor. Raises UserError if it changes with a setting or branch."""
        if BATCH in self.variants and not all(
            same(value, tensor) for tensor in self.values(self.variants[BATCH], path)
        ):
            raise recording_error(
                f"{self.name}: the network's argument {path} is {value!r}, and changes with the number of samples"
            )
        for branch, own in enumerate(self.values(self.base, path)):
            others = {setting: values[branch] for setting, values in self.others(path).items() if branch < len(values)}
            for setting, other in (("branch of guidance", value), *others.items()):
                if not same(own, other):
                    what = f"the network's argument {path} is {own!r}, and changes with the {setting}"
                    raise recording_error(f"{self.name}: {what}")
        return Argument(path, value)

    def tensor_argument(self, path: str, branch: int) -> Argument:
        """Return an argument as a condition if it changes with any setting or between branches, or else as a
        constant."""
        values = self.values(self.base, path)
        value, repeats = values[branch], self.repeats.get(path, 0)
        others = self.others(path)
        seen = [*values, *(branch for branches in others.values() for branch in branches)]
        if not all(isinstance(tensor, Tensor) for tensor in seen):
            raise recording_error(f"{self.name}: the network's argument {path} is a tensor in some calls only")
        # a negative prompt changes the argument of one branch only
        changing = [setting for setting, branches in others.items() if not all(map(same, values, branches))]
        self._check_number_of_steps(path, changing)
        if not changing and all(same(value, other) for other in values):
            return Argument(path, value[:1] if repeats else value, repeats)
        if not repeats:
            by = changing[0] if changing else "branch of guidance"
            what = f"the network's argument {path} has one value for all samples, and changes with the {by}"
            raise recording_error(f"{self.name}: {what}")
        if not changing and len(values) == 2 and (own := _describe_numbers(path, value, values[1 - branch], repeats)):
            return own
        is_setting = bool(changing) and not set(changing) & set(BY_CONTENT)
        condition = self._condition(path, value[0], seen, is_setting)
        if condition.shared and not self._is_shared(path):
            what = f"the network's argument {path} changes with the {changing[0]}, and between the branches of guidance"
            raise recording_error(f"{self.name}: {what}")
        has_noise = STEP_NUMBER in changing  # of its encoding, which may also differ between branches
        if is_of_second(path) and PICTURE in changing and (has_noise or self._is_shared(path)):
            is_picture = all(float(tensor.min()) >= 0 and float(tensor.max()) <= 1 for tensor in seen)
            condition = with_fields(condition, shared=True, typical=(0.0, 1.0) if is_picture else None)
        return Argument(path, value[:1], repeats, condition)

    def _check_number_of_steps(self, path: str, changing: Sequence[str]) -> None:
        """Raise UserError if an argument depends on the number of steps in any branch, because the bundle would always
        use its value in the recording."""
        variant = self.variants.get(STEP_NUMBER)
        if variant is None or path in self.found.drawn or (may_be_encoded(path) and PICTURE in changing):
            return  # an encoded picture has noise of its own in each recording
        pairs = zip(self.values(self.base, path), self.values(variant, path), strict=False)
        if not all(same(own, other) for own, other in pairs):
            raise recording_error(f"{self.name}: the network's argument {path} changes with the {STEP_NUMBER}")

    def _is_shared(self, path: str) -> bool:
        """Return whether an argument has one value in all branches of each recording."""
        branches = (self.values(record, path) for record in (self.base, *self.variants.values()))
        return all(same(first, other) for first, *others in branches for other in others)

    def _condition(self, path: str, value: Tensor, seen: list[Tensor], is_setting: bool) -> Condition:
        """Return the condition of an argument, from the values that recordings have shown."""
        label, shape = condition_name(path), tuple(value.shape)
        if value.numel() > MOST_VALUES:
            raise recording_error(
                f"{self.name}: the network's argument {path} has {value.numel()} elements, more than {MOST_VALUES}"
            )
        is_mask = all(bool(((tensor == 0) | (tensor == 1)).all()) for tensor in seen)
        if not value.is_floating_point():
            if path in self.labels:
                return Condition(label, label, shape, "int64")
            if not is_mask:
                what = f"the network's argument {path} has integers whose range the recordings do not show"
                raise recording_error(f"{self.name}: {what}")
            return Condition(label, label, shape, "int64", low=0, high=1)
        if is_setting and value.numel() <= MOST_DEFAULTS:
            default = tuple(value.flatten().tolist())
            return Condition(
                label, label, shape, "float32", default=default, typical=_usual_range(default), shared=True
            )
        if is_mask:
            return Condition(label, label, shape, "float32", low=0.0, high=1.0)
        return Condition(label, label, shape, "float32")

    def with_null(self, argument: Argument, unconditional: int) -> Argument:
        """Return the argument with a null value: the value of the unconditional branch, if that is the same number in
        all recordings. Otherwise return it unchanged."""
        condition = argument.condition
        if condition is None or condition.shared or argument.places:
            return argument
        per_record = [self.values(record, argument.path) for record in (self.base, *self.variants.values())]
        values = [rows[unconditional] for rows in per_record if unconditional < len(rows)]
        first = values[0].flatten()[0]
        if not all(bool((value == first).all()) for value in values):
            return argument
        return replace(argument, condition=with_fields(condition, null=float(first)))


def _describe_numbers(path: str, value: Tensor, other: Tensor, repeats: int) -> Argument | None:
    """Return an argument that no setting changes as a condition for those of its numbers that differ between two
    branches, such as the score of SDXL's refiner. Their default is that of the conditional branch, and their null value
    that of the other. None if the argument has many numbers, no fractions, or several null values."""
    own, others = value[0].flatten(), other[0].flatten()
    places = tuple((own != others).nonzero().flatten().tolist())
    nulls = {float(others[place]) for place in places}
    if len(own) > MOST_DEFAULTS or len(nulls) != 1 or not value.is_floating_point():
        return None
    default = tuple(float(own[place]) for place in places)
    label = "_".join([condition_name(path), *map(str, places if len(places) < len(own) else ())])
    shape = () if len(places) == 1 else (len(places),)
    condition = Condition(
        label, label, shape, "float32", null=nulls.pop(), default=default, typical=_usual_range(default)
    )
    return Argument(path, value[:1], repeats, condition, places=places)


def _usual_range(default: Sequence[float]) -> tuple[float, float] | None:
    """Return the range of values near a default, or None for one with negative numbers."""
    return (0.5 * min(default), 1.5 * max(default)) if min(default) >= 0 else None


def _cut_equally(value: Any, other: Any) -> tuple[Any, Any]:
    """Return two values without the rows that one of them lacks: a negative prompt may be cut to the length of the
    prompt."""
    if not (isinstance(value, Tensor) and isinstance(other, Tensor) and value.dim() == other.dim()):
        return value, other
    common = tuple(slice(min(sizes)) for sizes in zip(value.shape, other.shape, strict=True))
    return value[common], other[common]


def branch_names(count: int, arguments: NetworkArguments) -> list[str]:
    """Return the names of the `count` branches that a pipeline evaluates at each step, in their order in the batch."""
    names = [f"branch{number}" for number in range(count)]
    names[arguments.conditional] = COND
    if arguments.unconditional is not None:
        names[arguments.unconditional] = UNCOND
    return names


def condition_name(path: str) -> str:
    """Return the name of the condition for a network argument: the last name in the argument's path, with the indices
    that follow it. An argument x of a second network has the name of that network."""
    if is_part(path):
        return "image"
    names = re.findall(r"\['([^']+)'\]((?:\[\d+\])*)", path)
    name, numbers = names[-1]
    if is_of_second(path) and name == "x":  # the name of the denoiser's input
        name = names[0][0].removeprefix(INPUTS_OF)
    return "_".join([name, *re.findall(r"\d+", numbers)])
