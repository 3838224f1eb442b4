"""The tables of the GPU's time of a call, and of the kernels in which an engine takes more of it than torch."""

from collections.abc import Sequence

from benchmarks.gpu.results import DenoiserRow, DeviceTime
from benchmarks.markdown import table

TORCH = "torch"
COMPARED = 8  # kernels of each of two engines
HEAD = """## The GPU's time of a call

Milliseconds in which a kernel or a copy ran, by the profiler of torch. The host's share is the rest of the median time
of a call.
"""


def device_tables(times: Sequence[DeviceTime], rows: Sequence[DenoiserRow]) -> str:
    """Return a row for each engine and batch, then the kernels of our fastest engine if torch's is faster."""
    return "\n".join([HEAD, table(*shares(times, rows)), "", *slower_engines(times, rows)])


def shares(times: Sequence[DeviceTime], rows: Sequence[DenoiserRow]) -> tuple[Sequence[str], list[list[str]]]:
    """Return the head and the rows of the table of the host's share."""
    head = ("denoiser", "engine", "network", "batch", "ms, call", "ms, GPU", "launches", "host's share")
    lines = []
    for time in times:
        call = call_time(rows, time)
        if time.busy is None or call is None:
            lines.append([time.denoiser, time.engine, time.precision, str(time.batch), "", "", "", time.reason])
            continue
        share = f"{100 * max(0.0, 1 - time.busy / call):.0f} %"
        figures = (f"{call:.2f}", f"{time.busy:.2f}", f"{time.launches:.0f}", share)
        lines.append([time.denoiser, time.engine, time.precision, str(time.batch), *figures])
    return head, lines


def slower_engines(times: Sequence[DeviceTime], rows: Sequence[DenoiserRow]) -> list[str]:
    """For each denoiser and batch at which our fastest engine takes longer than torch's: its kernels, and those of
    torch if its call was profiled too."""
    parts = []
    for name, batch in dict.fromkeys((time.denoiser, time.batch) for time in times):
        own = [time for time in times if (time.denoiser, time.batch) == (name, batch) and time.busy is not None]
        ours = fastest([each for each in own if not each.engine.startswith(TORCH)], rows)
        theirs = fastest([each for each in own if each.engine.startswith(TORCH)], rows)
        least = None if ours is None else torch_time(rows, ours[1])
        if ours is None or least is None or ours[0] <= least:
            continue
        shown = [ours[1], *([] if theirs is None else [theirs[1]])]
        title = f"{name} at batch {batch}: {ours[0] / least:.2f} of the time of torch. The kernels with the most time:"
        parts.append(f"{title}\n\n{kernel_table(*shown)}\n")
    return parts


def fastest(times: Sequence[DeviceTime], rows: Sequence[DenoiserRow]) -> tuple[float, DeviceTime] | None:
    """The engine whose call takes the least time, with that time."""
    timed = [(call, time) for time in times if (call := call_time(rows, time)) is not None]
    return min(timed, key=lambda pair: pair[0], default=None)


def torch_time(rows: Sequence[DenoiserRow], each: DeviceTime) -> float | None:
    """The least median milliseconds of torch's engines, for the same denoiser, type and batch."""
    alike = [row for row in rows if (row.denoiser, row.precision) == (each.denoiser, each.precision)]
    medians = [timing.median for row in alike if row.engine.startswith(TORCH) for timing in row.timings
               if timing.batch == each.batch]  # fmt: skip
    return min(medians, default=None)


def kernel_table(*engines: DeviceTime) -> str:
    """The first kernels of engines."""
    lines = [
        [
            f"{engine.engine}, {engine.precision}",
            f"`{kernel.name}`",
            f"{kernel.launches:.0f}",
            f"{kernel.microseconds:.0f}",
        ]
        for engine in engines
        for kernel in engine.kernels[:COMPARED]
    ]
    return table(("engine", "kernel", "launches", "us"), lines)


def call_time(rows: Sequence[DenoiserRow], each: DeviceTime) -> float | None:
    """The median milliseconds of the calls that a device time belongs to."""
    for row in rows:
        if (row.denoiser, row.engine, row.precision) == (each.denoiser, each.engine, each.precision):
            return next((timing.median for timing in row.timings if timing.batch == each.batch), None)
    return None
