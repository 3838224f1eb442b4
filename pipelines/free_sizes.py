"""Free sizes of x of a recorded pipeline: its own call at other sizes shows whether its network takes them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from fewstep.export.verification.points import sizes_to_verify
from fewstep.pipelines.comparison import compare_call, is_comparable
from fewstep.pipelines.recorded_pipeline import Part, RecordedPipeline, find_form
from fewstep.pipelines.recording.call_record import CallRecord
from fewstep.pipelines.recording.call_sizes import CallSizes, find_call_sizes
from fewstep.pipelines.recording.components import BuiltPipeline
from fewstep.pipelines.recording.quiet import silence_libraries
from fewstep.pipelines.recording.record import record
from fewstep.pipelines.recording.stand_ins import recording_error
from fewstep.pipelines.relations.arguments import rows_first
from fewstep.pipelines.relations.networks import RecordedNetworks, split_record
from fewstep.pipelines.relations.pipeline_scheduler import PipelineScheduler
from fewstep.pipelines.relations.relations import is_part, same
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Description
from fewstep.runtime.kinds.sizes import apply_sizes

LOG = logging.getLogger("fewstep")
LEAVE_OUT = "leave --size out, and export once per size, as with --call height=512 --call width=512"


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
        """Raise UserError unless the pipeline calls its network at the free sizes of x as at its usual one, and samples
        agree with its own at one of them."""
        recorded, usual = self.recorded, self.recorded.settings.of()
        axes = [size.axis for size in takes.sizes if size.axis is not None]
        shapes = [apply_sizes(takes, sizes).x_shape for sizes in sizes_to_verify(takes)[1:]]
        compared = max(shapes, key=lambda shape: (len({shape[axis] for axis in axes}), -prod(shape)))
        try:
            with silence_libraries():
                lengths = {axis: [shape[axis] for shape in reversed(shapes)] for axis in axes}
                sizes = find_call_sizes(recorded.built, usual, recorded.x_shape, lengths)
                base = record(recorded.built, usual, 0)
                built = {shape: self._check_arguments(base, sizes, shape) for shape in shapes}
                difference = self._compare(built[compared], sizes.settings(compared))
        except UserError as error:
            raise UserError(f"--size: {error.what}", LEAVE_OUT) from error
        x = list(compared)
        if difference is None:
            LOG.warning("%s: the network is too large to compare its samples at other sizes", self.label)
        else:
            LOG.warning("%s: samples of x %s agree within %.1g of their range", self.label, x, difference)

    def _check_arguments(self, base: CallRecord, sizes: CallSizes, shape: tuple[int, ...]) -> BuiltPipeline:
        """Return the pipeline for x of this shape. Raises UserError for an argument of a network that follows the sizes
        of x and is not a condition."""
        recorded, settings = self.recorded, self.recorded.settings.of(None, sizes.settings(shape))
        name, form = recorded.built.name, recorded.built.form
        built = replace(recorded.built, form=None)
        if form is not None:
            built = find_form(built, record(built, settings, 0), record(built, settings, 1))
            if not form.has_free_sizes or built.form is None or built.form.paths != form.paths:
                raise recording_error(f"{name} passes x to its network in a layout of one size")
        resized = record(built, settings, 0)
        own_shape = tuple(resized.steps[0].sample.shape[1:])
        if own_shape != shape:
            raise recording_error(f"{name} makes x {list(own_shape)} instead of {list(shape)}")
        parts = split_record(name, resized)
        for component, own in split_record(name, base).items():
            part = recorded.parts[component]
            leaves, others = (rows_first(each.steps[0].calls[0], part.relations) for each in (own, parts[component]))
            for path, leaf in leaves.items():
                if path != part.relations.x and not _fits(part, path, leaf, others.get(path)):
                    raise recording_error(f"{name}: the network's argument {path} follows the size of x")
        return built

    def _compare(self, built: BuiltPipeline, settings: Mapping[str, Any]) -> float | None:
        """Return the largest difference of samples from the pipeline's own, or None for a network that is too large."""
        if not all(is_comparable(module.network) for module in self.modules.modules.values()):
            return None
        settings = self.recorded.settings.of(None, {**self.recorded.batch, **settings})
        return compare_call(built, self.modules, settings, self.scheduler)


def _fits(part: Part, path: str, value: Any, resized: Any) -> bool:
    """Return True if an argument at another size is what it was at the usual one, or has another shape and is a
    condition. Pictures are encoded with noise of their own in each recording."""
    argument = part.arguments.arguments.get(path)
    if argument is None:  # a time
        return torch.as_tensor(resized).shape == torch.as_tensor(value).shape
    if argument.condition is None or not isinstance(resized, Tensor) or resized.shape == value.shape:
        return same(value, resized) or (argument.condition is not None and is_part(path))
    return resized.dim() == value.dim()
