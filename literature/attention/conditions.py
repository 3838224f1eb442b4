"""Conditions that control a rewritten attention call, and their values for each row of the call."""

from torch import Tensor

from fewstep.runtime.bundle.manifest import Condition


def number_condition(name: str, high: float, default: float = 0.0) -> Condition:
    """Return a condition that is a number from 0 to `high`. All branches of guidance use the same number, unless the
    caller gives a branch its own."""
    return Condition(name, name, (), "float32", low=0, high=high, shared=True, default=(default,))


def repeat_over_rows(value: Tensor, over: Tensor) -> Tensor:
    """Repeat one number per sample, [B], so that it broadcasts over a tensor [rows, ...]. Each sample may have several
    consecutive rows."""
    if over.shape[0] != value.shape[0]:
        value = value.repeat_interleave(over.shape[0] // value.shape[0])
    return value.reshape(-1, *[1] * (over.ndim - 1))
