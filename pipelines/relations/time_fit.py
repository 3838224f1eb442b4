"""The times that a network gets, as linear functions of its scheduler's times.

A time may have a value for each position of x. Positions of a given image have a constant time, such as 0.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewstep.pipelines.recording.call_record import CallRecord
from fewstep.pipelines.recording.fit import TOLERANCE, fit, round_number
from fewstep.pipelines.recording.stand_ins import UNRECORDED, recording_error
from fewstep.plans.errors import UserError

Line = tuple[float, float]


class ChangingArgumentError(UserError):
    """A pipeline changes an argument of its network between steps. A condition has one value for all steps."""


@dataclass(frozen=True)
class TimeFit:
    """A time input of a network, as the linear function alpha t + beta of the scheduler's time t, given as `line`
    (alpha, beta).

    still: for the positions of one sample whose time never changes, that time; NaN for the other positions. None if all
        change.
    """

    line: Line
    still: Tensor | None = None

    def agrees(self, line: Line) -> bool:
        """Return True if the time is this function of the scheduler's."""
        return bool(np.allclose(self.line, line))


def fit_time(
    name: str, path: str, records: Sequence[CallRecord], expected: TimeFit | None = None, is_second: bool = False
) -> TimeFit:
    """Return how the network's time input at `path` depends on the scheduler's time. Raises UserError if it is not a
    linear function of it.

    expected: the result for other recordings. Positions whose time never changes have to be the same.
    is_second: whether to fit a function of the time at which the step ends, which is the time of the next step, or 0.
    """
    pairs, rows = _read_times(name, path, records, is_second)
    still = _find_still(rows) if expected is None else expected.still
    values = []
    for row in rows:
        moving = row.flatten() if still is None else row[still.isnan()]
        if still is not None and not torch.equal(row[~still.isnan()], still[~still.isnan()].double()):
            raise recording_error(
                f"{name}: positions of {path} whose time is constant in other recordings have a different time"
            )
        if not torch.equal(moving, moving[:1].expand_as(moving)):
            raise recording_error(f"{name}: {path} has different times for different positions")
        values.append(float(moving[0]))
    line = _fit_line(name, path, np.array(pairs), np.array(values), len(records[0].steps), expected)
    return TimeFit(line, still)


def fit_times(name: str, paths: Iterable[str], records: Sequence[CallRecord]) -> tuple[dict[str, TimeFit], set[str]]:
    """Return how each time input of the network depends on the scheduler's times, by its path, and the paths of those
    inputs that take the time at which a step ends.

    If all steps are equally long, the time at which a step ends equals its start minus a constant. Such a time is
    treated as a multiple of the time at which the step ends, since the constant changes with the number of steps.
    """
    fits, seconds = dict[str, TimeFit](), set[str]()
    for path in paths:
        problem: UserError | None = None
        try:
            fits[path] = fit_time(name, path, records)
        except UserError as error:
            problem = error
        if problem is None and fits[path].line[1] == 0:
            continue
        with suppress(UserError):
            end = fit_time(name, path, records, is_second=True)
            if problem is not None or end.line[1] == 0:
                fits[path], problem = end, None
                seconds.add(path)
        if problem is not None:
            raise problem
    return fits, seconds


def end_times(record: CallRecord) -> list[float]:
    """Return the time at which each step ends: the time of the next step, and 0 for the last step."""
    return [*(step.time for step in record.steps[1:]), 0.0]


def _read_times(
    name: str, path: str, records: Sequence[CallRecord], is_second: bool
) -> tuple[list[float], list[Tensor]]:
    """Return, for each recorded call, the scheduler's time and the value of the network's time input for one sample.
    Raises UserError if samples of a batch have different times."""
    times, rows = [], []
    for record in records:
        ends = end_times(record)
        for step, end in zip(record.steps, ends, strict=True):
            for call in step.calls:
                leaf = call.leaves[path]
                if not isinstance(leaf, Tensor | float | int):
                    raise recording_error(f"{name}: {path} changes with the step, and is not a number")
                value = torch.as_tensor(leaf).double()
                value = value if value.dim() else value[None]
                if not torch.equal(value, value[:1].expand_as(value)):
                    raise recording_error(f"{name}: {path} has different times for different rows")
                times.append(end if is_second else step.time)
                rows.append(value[0])
    return times, rows


def _find_still(rows: Sequence[Tensor]) -> Tensor | None:
    """Return the times of positions whose time never changes, with NaN for all other positions. None if all positions
    change, or none does."""
    first = rows[0]
    if any(row.shape != first.shape for row in rows) or first.numel() < 2:
        return None
    never = torch.stack([row == first for row in rows]).all(dim=0)
    if not bool(never.any()) or bool(never.all()):
        return None
    return torch.where(never, first, torch.nan).float()


def _fit_line(
    name: str,
    path: str,
    times: np.ndarray[tuple[int], np.dtype[np.float64]],
    values: np.ndarray[tuple[int], np.dtype[np.float64]],
    count: int,
    expected: TimeFit | None,
) -> Line:
    if expected is None or len(set(times)) > 1:
        if len(set(times)) < 2:
            raise recording_error(f"{name} takes {count} step, from which no relation of times follows")
        alpha, beta = map(round_number, fit([times, np.ones_like(times)], values).weights)
    else:
        alpha, beta = expected.line
    if np.abs(alpha * times + beta - values).max() > TOLERANCE * max(1.0, np.abs(values).max()):
        what = f"{name}: its network's {path} changes between steps, and not as a linear function of the time"
        raise ChangingArgumentError(what, UNRECORDED)
    return alpha, beta
