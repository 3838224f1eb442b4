"""The GPU's time of a call: its kernels and copies. torch's profiler records those of all libraries in a process."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from benchmarks.gpu.deployed import BATCHES, Sample
from benchmarks.gpu.results import DenoiserRow, DeviceTime, KernelTime
from benchmarks.gpu.workers import reason_of

CALLS = 5  # that are profiled
LISTED = 12  # kernels with the most time
PROFILED = ("float16", "bfloat16")  # the networks whose calls are compared with torch's
UNSEEN = "the profiler saw no kernel"
WIDTH = 80  # characters of a kernel's name


@dataclass(frozen=True)
class Activity:
    """A kernel or a copy on the GPU, from `start` to `end` in microseconds."""

    name: str
    start: float
    end: float


def device_times(row: DenoiserRow, sample: Sample, batches: Sequence[int] = BATCHES) -> Iterator[DeviceTime]:
    """Yield the GPU's time of a measured engine at each batch, or the reason why there is none."""
    for batch in batches:
        try:
            seen = record_activities(lambda batch=batch: sample(range(batch)), CALLS)  # type: ignore[misc]
            yield device_time(row, batch, seen, CALLS)
        except Exception as error:  # engines and torch share no base class but Exception
            yield DeviceTime(row.denoiser, row.engine, row.precision, batch, reason=reason_of(error))


def record_activities(call: Callable[[], Any], calls: int) -> list[Activity]:
    """Make calls, and return the GPU's activities. A CUDA graph is recorded kernel by kernel."""
    import torch
    from torch.autograd import DeviceType  # type: ignore[attr-defined]
    from torch.profiler import ProfilerActivity, profile

    call()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
    events = [event for event in profiler.events() or () if event.device_type == DeviceType.CUDA]
    return [Activity(event.name, float(event.time_range.start), float(event.time_range.end)) for event in events]


def device_time(row: DenoiserRow, batch: int, seen: Sequence[Activity], calls: int) -> DeviceTime:
    """Return the time in which the GPU was busy, and the kernels with the most time, for one of `calls` calls."""
    names = (row.denoiser, row.engine, row.precision, batch)
    if not seen:
        return DeviceTime(*names, reason=UNSEEN)
    kernels = []
    for name, group in groupby(
        sorted(seen, key=lambda each: kernel_name(each.name)), lambda each: kernel_name(each.name)
    ):
        own = list(group)
        kernels.append(KernelTime(name, len(own) / calls, sum(each.end - each.start for each in own) / calls))
    kernels.sort(key=lambda kernel: -kernel.microseconds)
    return DeviceTime(*names, busy_time(seen) / calls / 1e3, len(seen) / calls, tuple(kernels[:LISTED]))


def busy_time(seen: Sequence[Activity]) -> float:
    """Return the microseconds in which at least one kernel or copy ran."""
    total, until = 0.0, float("-inf")
    for each in sorted(seen, key=lambda each: each.start):
        total += max(0.0, each.end - max(each.start, until))
        until = max(until, each.end)
    return total


def kernel_name(name: str) -> str:
    """Return a kernel's name without its types: `void f<int>(float*)` is `f`."""
    plain = name.replace("(anonymous namespace)::", "").removeprefix("void ")
    while (shorter := re.sub(r"<[^<>]*>", "", plain)) != plain:
        plain = shorter
    return plain.partition("(")[0].strip()[:WIDTH] or name[:WIDTH]
