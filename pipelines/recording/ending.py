"""The end of a pipeline's call, after its scheduler's last step: a given x replaces the result of that step."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fewstep.pipelines.recording.call_record import CallRecord
from fewstep.pipelines.recording.packing import Packing
from fewstep.pipelines.recording.settings import OUTPUT

TENSORS, ARRAYS = "pt", "np"  # output_type of pictures in [0, 1] as tensors, and as arrays [batch, H, W, channels]


@dataclass(frozen=True)
class Ending:
    """x [1, *x_shape] that replaces the result of a call's last step, and its predicted clean x.

    begin: called when the scheduler has computed that step. calls: the number of calls of the scheduler's `step` before
    it; several may make one step. is_whole: a single one makes the last step, so that it returns x, of any size. aside:
    entered while the scheduler computes the others of these, from zeros. packing: how x is packed for the scheduler.
    """

    x: Tensor
    calls: int = 0
    is_whole: bool = False
    begin: Callable[[], object] = lambda: None
    aside: Callable[[], AbstractContextManager[object]] = nullcontext
    packing: Packing | None = None


def find_ending(record: CallRecord, x: Tensor) -> Ending:
    """Return the end of a call as in a recording of it, with another x."""
    *others, last = record.step_calls
    return Ending(x, sum(others), last == 1)


def ask_for(output: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call that returns this type of output, if the call takes one."""
    return {**settings, OUTPUT: output} if OUTPUT in settings else dict(settings)
