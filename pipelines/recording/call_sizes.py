"""The arguments of a pipeline's call that choose the sizes of x, found by what they do to its shape."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from fewstep.pipelines.recording.components import BuiltPipeline
from fewstep.pipelines.recording.record import record
from fewstep.pipelines.recording.stand_ins import recording_error
from fewstep.plans.errors import UserError

IMAGE_AXES = {-2: "height", -1: "width"}  # the argument for each axis of x, counted from the end
FRAMES = "num_frames"  # the argument for any other axis
FACTORS = (8, 16, 32, 1, 4, 2, 64)  # of pixels or frames per element of x, those of most pipelines first


@dataclass(frozen=True)
class SizeArgument:
    """An argument of a call that is `factor` times an axis of x. `is_first_single`: the first element of that axis is
    one frame, and all others are `factor` frames each, as in causal autoencoders of videos."""

    name: str
    factor: int
    is_first_single: bool = False

    def value(self, size: int) -> int:
        """Return the argument for which x has this size."""
        return self.factor * (size - 1) + 1 if self.is_first_single else self.factor * size


@dataclass(frozen=True)
class CallSizes:
    """The arguments of a call for the free axes of x, by axis."""

    arguments: Mapping[int, SizeArgument]

    def settings(self, x_shape: Sequence[int]) -> dict[str, Any]:
        """Return the arguments of a call whose x has this shape."""
        return {argument.name: argument.value(x_shape[axis]) for axis, argument in self.arguments.items()}


def find_call_sizes(
    built: BuiltPipeline, usual: Mapping[str, Any], x_shape: tuple[int, ...], sizes: Mapping[int, Sequence[int]]
) -> CallSizes:
    """Find the arguments for some axes of x, whose shape is `x_shape` in the usual call. `sizes` are lengths to try, by
    axis; twice the usual length is tried too. Raises UserError for an axis that no argument chooses."""
    arguments = dict[int, SizeArgument]()
    for axis, lengths in sizes.items():
        name = IMAGE_AXES.get(axis - len(x_shape), FRAMES)
        for argument, length in product(_possible_arguments(name), dict.fromkeys((*lengths, 2 * x_shape[axis]))):
            resized = (*x_shape[:axis], length, *x_shape[axis + 1 :])
            if length != x_shape[axis] and _makes(built, {**usual, name: argument.value(length)}, resized):
                arguments[axis] = argument
                break
        else:
            raise recording_error(f"no {name} of {built.name} changes the length of axis {axis} of x, {list(x_shape)}")
    return CallSizes(arguments)


def _possible_arguments(name: str) -> Iterator[SizeArgument]:
    for factor in FACTORS:
        if name == FRAMES:
            yield SizeArgument(name, factor, is_first_single=True)
        yield SizeArgument(name, factor)


def _makes(built: BuiltPipeline, settings: Mapping[str, Any], x_shape: tuple[int, ...]) -> bool:
    """Return whether a call with these arguments makes x of this shape; False if it refuses them."""
    try:
        return tuple(record(built.at(x_shape), settings, 0, stops=True).steps[0].sample.shape[1:]) == x_shape
    except UserError:
        return False
