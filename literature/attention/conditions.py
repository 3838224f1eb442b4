"""Conditions that lead a rewritten call of attention, and their numbers over its rows."""

from torch import Tensor

from fewstep.runtime.bundle.manifest import Condition


def number_condition(name: str, high: float, default: float = 0.0) -> Condition:
    """A number from 0 to `high`, which every branch of guidance has alike unless it sets its own."""
    return Condition(name, name, (), "float32", low=0, high=high, shared=True, default=(default,))


def repeat_over_rows(value: Tensor, over: Tensor) -> Tensor:
    """One number for each sample [B], over [rows, ...] where a sample has one or several rows."""
    if over.shape[0] != value.shape[0]:
        value = value.repeat_interleave(over.shape[0] // value.shape[0])
    return value.reshape(-1, *[1] * (over.ndim - 1))
