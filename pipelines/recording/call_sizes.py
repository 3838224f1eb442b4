"""The arguments of a pipeline's call that choose the sizes of x, found by what they do to its shape."""

import inspect
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
    axis; twice the usual length is tried too. Raises UserError for an axis that no argument chooses.

    A call may ignore a height without a width, as that of Stable Diffusion does. The result then has both.
    """
    arguments, free = dict[int, SizeArgument](), [name for name in _image_arguments(built) if name not in usual]
    for axis, lengths in sizes.items():
        name = IMAGE_AXES.get(axis - len(x_shape), FRAMES)
        tried = product(_possible_arguments(name), dict.fromkeys((*lengths, 2 * x_shape[axis])))
        found = (_try_length(built, usual, x_shape, free, axis, argument, length) for argument, length in tried)
        chosen = next(filter(None, found), None)
        if chosen is None:
            raise recording_error(f"no {name} of {built.name} changes the length of axis {axis} of x, {list(x_shape)}")
        arguments = {**chosen, **arguments, axis: chosen[axis]}
    return CallSizes(arguments)


def refuse_ignored_size(
    built: BuiltPipeline, usual: Mapping[str, Any], x_shape: tuple[int, ...], given: Mapping[str, Any]
) -> None:
    """Raise UserError if the user chose a height without a width, or the other way round, and the call ignores it: with
    twice this value, x has the same shape."""
    takes = _image_arguments(built)
    names = [name for name in takes if given.get(name) is not None]
    if len(takes) < 2 or len(names) != 1:
        return
    (name,), (other,) = names, [other for other in takes if other not in names]
    if _shape_of(built.at(x_shape), {**usual, name: 2 * given[name]}) == x_shape:
        what = f"the call of {built.name} ignores --call {name}={given[name]} without a {other}"
        raise UserError(what, f"give both: --call {name}={given[name]} --call {other}={given[name]}")


def _try_length(
    built: BuiltPipeline,
    usual: Mapping[str, Any],
    x_shape: tuple[int, ...],
    free: Sequence[str],
    axis: int,
    argument: SizeArgument,
    length: int,
) -> dict[int, SizeArgument] | None:
    """Return the arguments of a call whose x has another length along an axis: this one, or also that of the other axis
    of a picture, if it is in `free`. None if x has another shape."""
    if length == x_shape[axis]:
        return None
    resized = (*x_shape[:axis], length, *x_shape[axis + 1 :])
    others = {
        len(x_shape) + place: SizeArgument(name, argument.factor)
        for place, name in IMAGE_AXES.items()
        if argument.name in IMAGE_AXES.values() and name in free
    }
    for arguments in ({axis: argument}, {**others, axis: argument}):
        settings = {**usual, **CallSizes(arguments).settings(resized)}
        if _shape_of(built.at(resized), settings) == resized:
            return arguments
    return None


def _image_arguments(built: BuiltPipeline) -> list[str]:
    takes = inspect.signature(type(built.pipeline).__call__).parameters
    return [name for name in IMAGE_AXES.values() if name in takes]


def _possible_arguments(name: str) -> Iterator[SizeArgument]:
    for factor in FACTORS:
        if name == FRAMES:
            yield SizeArgument(name, factor, is_first_single=True)
        yield SizeArgument(name, factor)


def _shape_of(built: BuiltPipeline, settings: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the shape of x in a call with these arguments, or None if it refuses them."""
    try:
        return tuple(record(built, settings, 0, stops=True).steps[0].sample.shape[1:])
    except UserError:
        return None
