"""The page of the measurements, from stored lines."""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import TypeVar

from benchmarks.gpu.convolution_reference import IMAGES
from benchmarks.gpu.deployed import BATCHES, SEEDS
from benchmarks.gpu.kernels_page import device_tables
from benchmarks.gpu.results import (
    Agreement,
    AnyRecord,
    DenoiserRow,
    DeviceTime,
    Machine,
    OperatorTime,
    PartEnd,
    PlanCount,
    PlanTime,
)
from benchmarks.markdown import table
from benchmarks.nvidia.int8_forms import BLOCK, FEW, KNOWN

Kind = TypeVar("Kind", bound=AnyRecord)

INT8, HALF = ("silu", "int8"), ("half_silu", "half_bias", "half")
FORMS = {
    "sums": "int8 to int32",
    "linear": "int8, scale and bias, to half",
    "silu": "int8, scale, bias and SiLU, to half",
    "int8": "int8, scale, bias and SiLU, to int8",
    "half_silu": "half, bias and SiLU",
    "half_bias": "half and bias",
    "half": "half",
}


def page_of(records: Iterable[AnyRecord]) -> str:
    """Return the page. The last line for an object counts, so rows of an earlier run stay until they are measured
    again.
    """
    every = list(records)
    rows = newest(every, DenoiserRow, _row_key)
    parts = [head(every), denoisers(rows)]
    times = newest(every, DeviceTime, lambda each: (each.denoiser, each.engine, each.precision, each.batch))
    if times:
        parts.append(device_tables(times, rows))
    counts = newest(every, PlanCount, lambda each: (each.convolution, each.form))
    plans = newest(every, PlanTime, lambda each: (each.convolution, each.form, each.plan))
    agreements = newest(every, Agreement, lambda each: (each.convolution, each.form, each.plan))
    if counts or plans:
        parts.append(convolutions(counts, plans, agreements))
    operators = newest(every, OperatorTime, lambda each: (each.operator, each.precision, each.shape))
    if operators:
        parts.append(operator_times(operators))
    return "\n".join(parts)


def newest(records: Iterable[AnyRecord], kind: type[Kind], key: Callable[[Kind], object]) -> list[Kind]:
    """Return the last record of each key. A record without a figure does not replace one with figures."""
    found: dict[object, Kind] = {}
    for record in records:
        if isinstance(record, kind) and (not getattr(record, "reason", "") or key(record) not in found):
            found[key(record)] = record
    return list(found.values())


def _row_key(row: DenoiserRow) -> tuple[str, str, str]:
    return (row.denoiser, row.engine, row.precision)


def head(records: Sequence[AnyRecord]) -> str:
    """Return the head of the page: its contents, and the machine."""
    machines = list(dict.fromkeys(_machine(record) for record in records if isinstance(record, Machine)))
    unfinished = [record for record in records if isinstance(record, PartEnd) and record.reason]
    lines = [f"- {machine}" for machine in machines]
    lines += [f"- part `{each.name}` ended after {each.seconds:.0f} s: {each.reason}" for each in unfinished]
    return f"""# On an NVIDIA GPU

`python -m benchmarks.gpu --page RESULTS.jsonl` wrote this page from the lines of `python -m benchmarks.gpu`.

{chr(10).join(lines)}
"""


def _machine(each: Machine) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in each.versions.items())
    return f"{each.gpu}; {versions}; measured on {each.date}"


def denoisers(rows: Sequence[DenoiserRow]) -> str:
    """The table of denoisers."""
    order = list(dict.fromkeys(row.denoiser for row in rows))
    shown = [_denoiser_line(row) for row in sorted(rows, key=lambda row: order.index(row.denoiser))]
    batches = [f"ms, batch {batch}" for batch in BATCHES]
    has_bounds = any(row.bounds for row in rows)
    titles = ["denoiser", "engine", "network", "dB, mean / least", *batches, "bound"]
    lines = [line if has_bounds else line[:-1] for line in shown]
    return f"""## Denoisers

PSNR is to the samples of ONNX Runtime on the CPU in float32, over {SEEDS} seeds, and {FEW} of {BLOCK.name}. Times are
milliseconds of one call, with noise and results on the host: the median, and the 99th percentile. TF32 is off.
float16 of torch is by autocast. A [form](../../docs/engines.md#the-form-for-the-cuda-provider) has the operations of
the provider. An unrolled file is a whole run as one CUDA graph, and a whole run is such a file in a sampler. A bound is
what the kernels of an engine need at least.

{table(titles if has_bounds else titles[:-1], lines)}
"""


def _denoiser_line(row: DenoiserRow) -> list[str]:
    decibels = "" if row.mean is None or row.least is None else f"{row.mean:.1f} / {row.least:.1f}"
    by_batch = {timing.batch: f"{timing.median:.2f}, {timing.percentile_99:.2f}" for timing in row.timings}
    least = ", ".join(f"{bound:.2f}" for bound in row.bounds)
    times = [by_batch.get(batch, "") for batch in BATCHES]
    if row.reason:
        times[-1] = f"{times[-1]} {row.reason}".strip()
    return [describe_member(row.denoiser), row.engine, row.precision, decibels, *times, least]


def describe_member(model: str) -> str:
    """A denoiser with its plan and guidance."""
    member = KNOWN[model]
    return ", ".join((model, member.plan, *([] if member.guidance is None else [f"guidance {member.guidance:g}"])))


def convolutions(counts: Sequence[PlanCount], plans: Sequence[PlanTime], agreements: Sequence[Agreement]) -> str:
    """The tables of cuDNN's convolutions."""
    names = list(dict.fromkeys(count.convolution for count in counts))
    race = [line for name in names for line in _race(name, counts, plans)]
    exact = [_agreement_line(form, list(group)) for form, group in _by_form(agreements)]
    titles = ("kernel", "plans", "values", "plans with the same bits", "most values that differ", "largest difference")
    return f"""## Convolutions of cuDNN

A fused convolution is one kernel. Its time is that of one of many calls in a CUDA graph, in its fastest replay, by the
fastest of all plans that cuDNN lists and that run. *Ratio* has the time of int8 with
SiLU over three times of half precision: with bias and SiLU in the kernel, with bias alone, and without either. The
last two leave SiLU to another kernel.

{table(("convolution", "kernel", "plans, run", "fastest plan", "us", "ratio"), race)}

The results compared with float32 arithmetic on exact sums, for {IMAGES} images, over all plans that ran:

{table(titles, exact)}
"""


def _race(name: str, counts: Sequence[PlanCount], plans: Sequence[PlanTime]) -> list[list[str]]:
    """The lines of one convolution."""
    best = {form: _fastest([plan for plan in plans if (plan.convolution, plan.form) == (name, form)]) for form in FORMS}
    lines = []
    for count in (each for each in counts if each.convolution == name and each.form in (*INT8, *HALF)):
        own = [plan for plan in plans if (plan.convolution, plan.form) == (name, count.form)]
        ran, winner = sum(each.microseconds is not None for each in own), best[count.form]
        shown = [FORMS[count.form], f"{count.count}, {ran}"]
        if winner is None or winner.microseconds is None:
            reason = next((each.reason for each in own if each.reason), "")
            lines.append([name, *shown, reason, "", ""])
            continue
        ratios = [
            f"{winner.microseconds / other.microseconds:.2f}"
            for form in (HALF if count.form in INT8 else ())
            if (other := best[form]) is not None and other.microseconds
        ]
        lines.append([name, *shown, winner.plan, f"{winner.microseconds:.1f}", ", ".join(ratios)])
    return lines


def _fastest(plans: Sequence[PlanTime]) -> PlanTime | None:
    ran = [plan for plan in plans if plan.microseconds is not None]
    return min(ran, key=lambda each: each.microseconds or 0.0, default=None)


def _by_form(agreements: Sequence[Agreement]) -> Iterable[tuple[str, Iterable[Agreement]]]:
    known = sorted(agreements, key=lambda agreement: list(FORMS).index(agreement.form))
    return groupby(known, key=lambda each: each.form)


def _agreement_line(form: str, every: Sequence[Agreement]) -> list[str]:
    same = sum(each.different == 0 for each in every)
    most = max(each.different / each.values for each in every)
    largest = max(each.largest for each in every)
    values = str(sum(each.values for each in every))
    return [FORMS[form], str(len(every)), values, str(same), f"{100 * most:.3g} %", f"{largest:.2g}"]


def operator_times(rows: Sequence[OperatorTime]) -> str:
    """The table of operators."""
    shown = [
        [
            row.operator,
            row.precision,
            "x".join(map(str, row.shape)),
            row.reason if row.microseconds is None else f"{row.microseconds:.2f}",
            "" if row.difference is None else f"{row.difference:.1e}",
        ]
        for row in rows
    ]
    return f"""## Operators of ONNX Runtime's CUDA provider

Each in a chain of equal ones that is one CUDA graph: the difference of a long and a short chain over the operators
between them. A difference is from the CPU in float32, as a share of the largest value.

{table(("operator", "type", "shape", "us", "difference"), shown)}
"""
