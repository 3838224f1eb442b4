"""Axes of tensors of one sample, and those of the tensors of all samples."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from fewstep.export.tracing.samples.sample import Sample

Arguments = tuple[Any, ...]
Options = dict[str, Any]
Rule = Callable[[Callable[..., Any], Arguments, Options, Any], Any]  # the last argument is the batch
VALUES = frozenset(["__bool__", "__int__", "__float__", "__index__"])  # without underscores, these are other functions


def name_of(func: Callable[..., Any]) -> str:
    """ "add" of Tensor.__add__, and "shape" of the getter of Tensor.shape."""
    if func.__name__ == "__get__":
        return str(func.__self__.__name__)  # type: ignore[attr-defined]
    return func.__name__ if func.__name__ in VALUES else func.__name__.strip("_")


def align(value: Any, rank: int) -> Any:
    """Return a sample's tensor with axes of length 1 after the batch, so that it is broadcast as one of `rank`."""
    if not isinstance(value, Sample):
        return value
    held = value.held
    return held.reshape(held.shape[0], *[1] * (rank + 1 - held.dim()), *held.shape[1:]) if held.dim() <= rank else held


def shift(axes: Any) -> Any:
    """Return an axis, or axes, of a sample as those of the tensor of all samples."""
    if isinstance(axes, Sequence):
        return tuple(map(shift, axes))
    return axes + 1 if axes >= 0 else axes


def as_list(given: Sequence[Any], named: Any = None) -> list[Any]:
    if named is not None:
        return list(named)
    return list(given[0]) if len(given) == 1 and isinstance(given[0], Sequence) else list(given)


def wrap(value: Any) -> Any:
    """Return the results of a function for all samples as tensors of one sample."""
    if isinstance(value, Tensor):
        return Sample(value)
    return type(value)(map(wrap, value)) if type(value) in (list, tuple) else tuple(map(wrap, value))
