"""`fewstep export --size height=32:128:8`: make axes of x dynamic that the source's spec fixes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import msgspec

from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Source, Spec, with_spec
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Condition, Description, Size

FORM = re.compile(r"([A-Za-z_]\w*)(?:@(\d{1,2}))?=(\d{1,8}):(\d{1,8})(?::(\d{1,8}))?", re.ASCII)
FIX = "write NAME=LOW:HIGH:MULTIPLE, like height=32:128:8, or NAME@AXIS=... for any axis, like frames@1=2:21"
AXES = {"height": -2, "width": -1, "length": -1}  # the axis that each name stands for, counted from the end


def with_sizes(source: Source, texts: Sequence[str]) -> Source:
    """Return the source with the free sizes of --size. A size that the spec already has keeps its axis and gets the new
    range. Raises UserError for sizes that a recorded pipeline does not take."""
    if not texts:
        return _release_pipeline(source)
    spec = source.spec
    by_name = {size.name: size for size in spec.sizes}
    for text in texts:
        size = _parse_size(text, spec, by_name)
        by_name[size.name] = size
    sizes = tuple(sorted(by_name.values(), key=lambda size: size.axis or 0))
    described = Description(spec.name, spec.x_shape, (), spec.prediction, spec.schedule, spec.heads, sizes=sizes)
    if problem := next(filter(None, (size.problem(described) for size in sizes)), None):
        raise UserError(f"--size {problem}", f"{FIX}; it counts elements of x {list(spec.x_shape)}, not pixels")
    conditions = tuple(_follow_sizes(condition, spec, sizes) for condition in spec.conditions)
    if isinstance(source, TorchSource) and source.check_sizes is not None:
        source.check_sizes(msgspec.structs.replace(described, conditions=conditions))
    return with_spec(_release_pipeline(source), sizes=sizes, conditions=conditions)


def _release_pipeline(source: Source) -> Source:
    """Return the source without the check of its sizes, which holds all networks of its pipeline in memory."""
    return replace(source, check_sizes=None) if isinstance(source, TorchSource) else source


def _parse_size(text: str, spec: Spec, by_name: Mapping[str, Size]) -> Size:
    match = FORM.fullmatch(text)
    if match is None:
        raise UserError(f"--size {text!r} is not a range of sizes", FIX)
    name, axis, *numbers = match.groups()
    low, high, multiple = (None if number is None else int(number) for number in numbers)
    if axis is not None and int(axis) < len(spec.x_shape):
        place = int(axis)
    elif axis is None and name in by_name and (own := by_name[name].axis) is not None:
        place = own
    elif axis is None and name in AXES and -AXES[name] < len(spec.x_shape):
        place = len(spec.x_shape) + AXES[name]
    else:
        raise UserError(f"--size {text!r}: x {list(spec.x_shape)} has no such axis", FIX)
    usual = by_name[name].multiple if name in by_name else 1
    return Size(name, place, low or 0, high or 0, usual if multiple is None else multiple)


def _follow_sizes(condition: Condition, spec: Spec, sizes: Sequence[Size]) -> Condition:
    """Return a condition whose size follows that of x if it is an image with the height and width of x, or with both
    multiplied or divided by the same integer. Any other condition is returned unchanged."""
    if condition.follows or len(condition.shape) != len(spec.x_shape):
        return condition
    axes = {size.name: size.axis for size in sizes if size.axis is not None}
    factors = {Fraction(condition.shape[axis], spec.x_shape[axis]) for axis in axes.values()}
    if len(factors) != 1:
        return condition
    (factor,) = factors
    if 1 not in (factor.numerator, factor.denominator):
        return condition
    above = "" if factor.numerator == 1 else f"*{factor.numerator}"
    below = "" if factor.denominator == 1 else f"/{factor.denominator}"
    return msgspec.structs.replace(condition, follows={axis: f"{name}{above}{below}" for name, axis in axes.items()})
