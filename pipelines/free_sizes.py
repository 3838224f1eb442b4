"""Free sizes of x of a recorded pipeline: its own call at other sizes shows whether its network takes them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.export.verification.points import sizes_to_verify
from fewstep.pipelines.compared_size import are_comparable, few_steps
from fewstep.pipelines.comparison import check_updates, compare_call
from fewstep.pipelines.layout import find_form
from fewstep.pipelines.recorded_pipeline import Part, RecordedPipeline
from fewstep.pipelines.recording.call_record import CallRecord, NetworkCall
from fewstep.pipelines.recording.call_sizes import CallSizes, find_call_sizes
from fewstep.pipelines.recording.components import BuiltPipeline
from fewstep.pipelines.recording.quiet import silence_libraries
from fewstep.pipelines.recording.record import record
from fewstep.pipelines.recording.stand_ins import recording_error
from fewstep.pipelines.relations.argument_rows import rows_first
from fewstep.pipelines.relations.networks import RecordedNetworks, check_parts, split_record
from fewstep.pipelines.relations.pipeline_scheduler import PipelineScheduler
from fewstep.pipelines.relations.relations import may_be_encoded, same
from fewstep.pipelines.size_search import counts_of_steps, read_shift
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Description
from fewstep.runtime.kinds.sizes import apply_sizes

LOG = logging.getLogger("fewstep")
SHIFT_TOLERANCE = 1e-6  # of the argument mu of a scheduler
LEAVE_OUT = "leave --size out, and export once per size, such as with --call height=64 --call width=64"


@dataclass(frozen=True)
class RecordedSizes:
    """A recorded pipeline that can be called at other sizes.

    modules: its networks with their weights. label: its name in messages.
    """

    recorded: RecordedPipeline
    modules: RecordedNetworks
    scheduler: PipelineScheduler
    label: str

    def check(self, takes: Description) -> None:
        """Raise UserError unless the pipeline calls its network at the free sizes of x as at its usual one, its
        scheduler's plan makes the steps of these calls, and samples agree with its own at one of them."""
        recorded, usual = self.recorded, self.recorded.settings.of()
        axes = [size.axis for size in takes.sizes if size.axis is not None]
        self._check_blocks(takes)
        resized = {own.x_shape: own for own in (apply_sizes(takes, sizes) for sizes in sizes_to_verify(takes)[1:])}
        if not resized:  # the ranges have the usual size only
            return
        compared = max(resized, key=lambda shape: (len({shape[axis] for axis in axes}), -prod(shape)))
        try:
            with silence_libraries():
                lengths = {axis: [shape[axis] for shape in reversed(resized)] for axis in axes}
                sizes = find_call_sizes(recorded.built, usual, recorded.x_shape, lengths)
                self._check_shift(sizes, takes)
                base = record(recorded.built, usual, 0)
                built = {shape: self._check_call(base, sizes, own) for shape, own in resized.items()}
                difference = self._compare(built[compared], sizes.settings(compared))
        except UserError as error:
            raise UserError(f"--size: {error.what}", LEAVE_OUT) from error
        x = list(compared)
        if difference is None:
            LOG.warning("%s: the network is too large to compare its samples at other sizes", self.label)
        else:
            LOG.warning("%s: samples of x %s agree within %.1g of their range", self.label, x, difference)

    def _check_shift(self, sizes: CallSizes, takes: Description) -> None:
        """Raise UserError if the scheduler gets another shift than that of its plan at the least or greatest sizes. No
        network runs, so that these are checked however large they are."""
        recorded, free = self.recorded, [size for size in takes.sizes if size.axis is not None]
        if recorded.rules.mu is None:
            return
        for lengths in product(*((size.low, size.high) for size in free)):
            shape = list(recorded.x_shape)
            for size, length in zip(free, lengths, strict=True):
                shape[size.axis or 0] = length
            for count in counts_of_steps(recorded):
                steps, mu = read_shift(recorded, sizes, tuple(shape), count)
                expected = recorded.rules.arguments(steps, shape)["mu"]
                if mu is None or abs(mu - expected) > SHIFT_TOLERANCE * max(1.0, abs(mu)):
                    what = f"{recorded.built.name} shifts its times by another rule for x {shape}"
                    raise recording_error(f"{what}: its mu is {mu}, and by the rule of other sizes {expected:.6g}")

    def _check_blocks(self, takes: Description) -> None:
        """Raise UserError for sizes that are no multiples of the latents in one token."""
        packing = self.recorded.built.packing
        for size in takes.sizes if packing is not None else ():
            side = 1 if size.axis is None or packing is None else packing.block[size.axis - 1]
            if size.multiple % side:
                what = f"--size {size.name}: {self.recorded.built.name} makes a token of {side} latents along it"
                low, high = -(-size.low // side) * side, size.high // side * side
                raise UserError(what, f"give multiples of {side}: {size.name}={low}:{high}:{side}")

    def _check_call(self, base: CallRecord, sizes: CallSizes, takes: Description) -> BuiltPipeline:
        """Return the pipeline for x of another shape. Raises UserError for an argument of a network that follows the
        sizes of x and is not a condition of the shape in `takes`, and for other steps than those of the plan."""
        shape, settings = takes.x_shape, self.recorded.settings.of(None, sizes.settings(takes.x_shape))
        name, form = self.recorded.built.name, self.recorded.built.form
        built = self.recorded.built.at(shape)
        if form is not None:
            built = find_form(built, record(built, settings, 0), record(built, settings, 1))
            if not form.has_free_sizes or built.form is None or built.form.paths != form.paths:
                raise recording_error(f"{name} passes x to its network in a layout of one size")
        resized = record(built, settings, 0)
        own_shape = tuple(resized.steps[0].sample.shape[1:])
        if own_shape != shape:
            raise recording_error(f"{name} makes x {list(own_shape)} instead of {list(shape)}")
        shapes = {condition.name: condition.shape for condition in takes.conditions}
        parts = split_record(name, resized)
        for component, own in split_record(name, base).items():
            if component not in parts:
                raise recording_error(f"{name} does not call {component} for x {list(shape)}")
            calls = own.steps[0].calls, parts[component].steps[0].calls
            if len(calls[0]) != len(calls[1]):
                raise recording_error(f"{name} calls {component} {len(calls[1])} times in a step for x {list(shape)}")
            for pair in zip(*calls, strict=True):
                self._check_arguments(component, *pair, shapes, shape)
        self._check_weights(base, resized)
        check_updates(built, self.modules, settings, self.scheduler)
        return built

    def _check_arguments(
        self,
        component: str,
        call: NetworkCall,
        resized: NetworkCall,
        shapes: Mapping[str, Sequence[int]],
        x_shape: Sequence[int],
    ) -> None:
        """Raise UserError for an argument of a call that follows the size of x, and is no condition of its shape in
        `shapes`."""
        part = self.recorded.parts[component]
        leaves, others = rows_first(call, part.relations), rows_first(resized, part.relations)
        for path in dict.fromkeys((*leaves, *others)):
            is_known = path in leaves and path in others
            if path == part.relations.x:
                continue
            if not (is_known and _fits(part, path, leaves[path], others[path], shapes, x_shape)):
                raise recording_error(
                    f"{self.recorded.built.name}: the network's argument {path} follows the size of x"
                )

    def _check_weights(self, base: CallRecord, resized: CallRecord) -> None:
        """Raise UserError if the weights of the network's outputs differ between calls of the same times."""
        name, relations = self.recorded.built.name, {key: part.relations for key, part in self.recorded.parts.items()}
        if [step.time for step in base.steps] != [step.time for step in resized.steps]:
            return  # weights may follow the time
        usual, other = (np.array(check_parts(name, relations, own, "size")) for own in (base, resized))
        if usual.shape != other.shape or not np.allclose(usual, other, rtol=1e-3, atol=1e-3):
            raise recording_error(f"{name} combines its network's outputs with other weights at other sizes")

    def _compare(self, built: BuiltPipeline, settings: Mapping[str, Any]) -> float | None:
        """Return the largest difference of samples from the pipeline's own, or None for a network that is too large."""
        if not are_comparable(module.network for module in self.modules.modules.values()):
            return None
        few = few_steps(self.modules, self.recorded.settings)
        settings = self.recorded.settings.of(None, {**(self.recorded.batch if few is None else few), **settings})
        return compare_call(built, self.modules, settings, self.scheduler)


def _fits(
    part: Part, path: str, value: Any, resized: Any, shapes: Mapping[str, Sequence[int]], x_shape: Sequence[int]
) -> bool:
    """Return True if an argument at another size is what it was at the usual one, follows its rule, or is a condition
    of another shape, that in `shapes`. Pictures are encoded with noise of their own in each recording."""
    argument = part.arguments.arguments.get(path)
    if argument is None:  # a time
        return torch.as_tensor(resized).shape == torch.as_tensor(value).shape
    if argument.of_size is not None:
        expected = argument.of_size.value(x_shape[-2], x_shape[-1])
        return same(expected.expand(resized.shape) if argument.repeats else expected, resized)
    condition = None if argument.places else argument.condition  # whose other numbers are constants
    if condition is None or not isinstance(value, Tensor) or not isinstance(resized, Tensor):
        return same(value, resized)
    texts, described = condition.follows, shapes.get(condition.name, condition.shape)
    has_shape = len(described) == resized.dim() - 1 and all(
        size == described[axis] for axis, size in enumerate(resized.shape[1:]) if axis not in texts
    )
    return has_shape and (resized.shape != value.shape or may_be_encoded(path) or same(value, resized))
