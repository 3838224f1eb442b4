"""The tables of whole calls and of groups, as a GPU measured them."""

from collections.abc import Sequence

from benchmarks.gpu.results import GroupTime, StepTime
from benchmarks.markdown import table
from benchmarks.nvidia.cudnn.engines import COMPILED, CUDNN, INT8, SIMULATED

SLOWER = 1.0  # ratio of times from which int8 is called slower


def step_times(rows: Sequence[StepTime]) -> str:
    """A row for each denoiser and batch, with the times of all engines."""
    lines = []
    for name, batch in dict.fromkeys((row.denoiser, row.batch) for row in rows):
        own = {row.engine: row for row in rows if (row.denoiser, row.batch) == (name, batch)}
        times = [own[engine].least_time if engine in own else None for engine in (INT8, CUDNN, COMPILED)]
        if any(time is not None for time in times):
            ratios = [ratio(times[0], other) for other in times[1:]]
            lines.append([name, str(batch), *map(microseconds, times), *ratios])
    head = ("denoiser", "rows", INT8, CUDNN, COMPILED, "int8 over cuDNN's float16", "int8 over torch's float16")
    return table(head, sorted(lines, key=lambda line: (line[0], int(line[1])))) if lines else ""


def qualities(rows: Sequence[StepTime]) -> str:
    """The PSNR of samples of each engine."""
    lines = [
        [
            *(row.denoiser, row.engine, f"{row.mean:.1f} / {row.least:.1f}"),
            describe_difference(row),
            "" if row.engine == SIMULATED else f"{row.simulated:.1f}",
        ]
        for row in rows
        if row.mean is not None and row.simulated is not None
    ]
    head = (
        "denoiser",
        "engine",
        "dB to float32, mean / least",
        "minus the simulated int8 body's, mean ± standard error",
        "dB to the simulated int8 body, mean",
    )
    return table(head, lines) if lines else ""


def describe_difference(row: StepTime) -> str:
    """The difference from the simulated int8 body in PSNR, with the standard error where seeds give one."""
    if row.difference is None or row.engine == SIMULATED:
        return ""
    return f"{row.difference:+.2f}" + ("" if row.standard_error is None else f" ± {row.standard_error:.2f}")


def failures(rows: Sequence[StepTime]) -> str:
    """Return the missing figures, with the reasons."""
    lines = [f"- {row.denoiser}, {row.batch} rows, {row.engine}: {row.reason}" for row in rows if row.reason]
    return "\n".join(["Without a figure:", "", *lines]) if lines else ""


def group_times(rows: Sequence[GroupTime]) -> str:
    """A row for each group that int8 computes, by the largest batch first; then the groups that int8 does not help."""
    lines = [
        [
            *(row.denoiser, row.product, row.operation, row.epilogue),
            *map(microseconds, (row.int8, row.half)),
            ratio(row.int8, row.half),
            *(row.int8_plan, row.half_plan),
        ]
        for row in sorted(rows, key=lambda row: (row.denoiser, -row.batch))
    ]
    head = (
        "denoiser",
        "convolution",
        "operation",
        "epilogue",
        "int8",
        "float16",
        "ratio",
        "int8's plan",
        "float16's plan",
    )
    return "\n\n".join([slower_groups(rows), exactness(rows), table(head, lines)]) if lines else ""


def slower_groups(rows: Sequence[GroupTime]) -> str:
    """The sums over groups, and those that are slower in int8, by denoiser and batch."""
    lines = []
    for name, batch in dict.fromkeys((row.denoiser, row.batch) for row in rows):
        own = [row for row in rows if (row.denoiser, row.batch) == (name, batch)]
        both = [(each, each.int8, each.half) for each in own if each.int8 is not None and each.half is not None]
        sums = [sum(times) for times in zip(*((int8, half) for _, int8, half in both), strict=True)] or [None, None]
        slower = [each.product for each, int8, half in both if int8 > SLOWER * half]
        named = f"{len(slower)} of {len(both)}" + (f": {', '.join(slower)}" if slower else "")
        lines.append([name, str(batch), *map(microseconds, sums), ratio(*sums), named])
    head = ("denoiser", "rows", "int8 groups in int8", "the same in float16", "ratio", "slower in int8")
    return table(head, sorted(lines, key=lambda line: (line[0], int(line[1]))))


def exactness(rows: Sequence[GroupTime]) -> str:
    """Return how many groups have the exact integers."""
    compared = [row for row in rows if row.different is not None]
    wrong = [f"{each.denoiser} {each.product} ({each.different} numbers)" for each in compared if each.different]
    if not compared:
        return "No group was compared with exact integers."
    said = f"{len(compared) - len(wrong)} of {len(compared)} compared groups have the exact sums, bit for bit."
    return said + (f" Others: {', '.join(wrong)}." if wrong else "")


def microseconds(time: float | None) -> str:
    return "" if time is None else f"{time:.1f}"


def ratio(ours: float | None, other: float | None) -> str:
    return "" if ours is None or other is None else f"{ours / other:.2f}"
