"""Rewrite recordings of a flow scheduler with `invert_sigmas`, whose times grow from noise to data, as in Mochi.

There, x at time t is (t / T) x0 + (1 - t / T) noise, where T is the number of training steps, and the network returns
x0 - noise. With T - t instead of t, and with the sign of the network's output reversed, this is a flow as in other
schedulers.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fewstep.pipelines.recording.call_record import CallRecord

FIELD = "invert_sigmas"


def is_inverted(scheduler: Any) -> bool:
    """Return True for a scheduler whose times grow from noise to data."""
    return bool(getattr(scheduler, "config", {}).get(FIELD))


def turn_around(record: CallRecord, count: float) -> CallRecord:
    """Return the recording with times that fall from noise to data. `count` is the number of training steps."""
    steps = (replace(step, time=count - step.time, model_output=-step.model_output) for step in record.steps)
    return replace(record, steps=tuple(steps))


def without_inversion(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of the scheduler whose steps `turn_around` returns."""
    return {name: value for name, value in config.items() if name != FIELD}
