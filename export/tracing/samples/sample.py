"""A tensor of one sample in the code of a network, which stands for the same tensor of every sample of a batch."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor


class UnknownFunctionError(Exception):
    """A function without a rule for tensors of samples."""


@dataclass(frozen=True)
class Selection:
    """The elements of a tensor that its code has: those that a mask selects along an axis. The tensor keeps all.

    axis: the axis in the shape of one sample.
    valid: which elements are selected, [B, size].
    counts: how many are selected: for each mask, how often its number of elements is added; None has the rest.
    is_index: the tensor contains the indexes along its axis.
    """

    axis: int
    valid: Tensor
    counts: dict[Hashable, int] = field(default_factory=dict)
    is_index: bool = False

    def is_same(self, other: "Selection") -> bool:
        """Return True if both have the same elements of the same axis."""
        return self.axis == other.axis and self.counts == other.counts and self.valid.shape == other.valid.shape


class Sample(Tensor):
    """A tensor with the shape of one sample, [1, ...] or without the batch. `held` has those of all samples,
    [B, *shape]. Two with an equal `key` have equal values."""

    apply_rule: ClassVar[Callable[..., Any]]  # of `rules`, which imports this module; `one_sample` sets it
    held: Tensor
    selection: Selection | None
    key: Hashable
    negated: "Sample | None"  # the mask that this mask negates

    @staticmethod
    def __new__(cls, held: Tensor, selection: Selection | None = None) -> "Sample":
        made: Sample = Tensor._make_wrapper_subclass(cls, held.shape[1:], dtype=held.dtype, device=held.device)
        made.held, made.selection, made.key, made.negated = held, selection, object(), None
        return made

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return cls.apply_rule(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise UnknownFunctionError(f"{func} of tensors of one sample")


def read_shape(sample: Tensor) -> tuple[Any, ...]:
    """Return the shape of a tensor without a call of its functions."""
    with torch._C.DisableTorchFunctionSubclass():
        return tuple(sample.shape)


def find_samples(values: Iterable[Any]) -> Iterator[Sample]:
    """Yield the tensors of samples in a function's arguments, also those in lists."""
    for value in values:
        if isinstance(value, Sample):
            yield value
        elif type(value) in (list, tuple):
            yield from find_samples(value)


def hold(value: Any, batch: Any) -> Any:
    """Return the tensor of all samples for any tensor of one sample."""
    return value.held if isinstance(value, Sample) else value.unsqueeze(0).expand(batch, *value.shape)
