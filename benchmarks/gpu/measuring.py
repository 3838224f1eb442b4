"""Agreement with the CPU's samples, and the time of a call."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.gpu.bounds import bounds
from benchmarks.gpu.contenders import Contender, contenders
from benchmarks.gpu.deployed import BATCHES, Sample, deploy
from benchmarks.gpu.device_time import PROFILED, device_times
from benchmarks.gpu.results import AnyRecord, DenoiserRow, Timing
from benchmarks.gpu.workers import reason_of
from fewstep.measure.rollouts.metrics import psnr
from fewstep.runtime.machine.gpu import Gpu

UNPREPARED = "its files were not prepared in time: give more --minutes"
SECONDS, LEAST = 0.75, 10  # of timing one batch, and calls at least


@dataclass(frozen=True)
class Measurement:
    """One contender of one denoiser. number: its place among the contenders."""

    name: str
    folder: Path
    number: int
    tensorrt: str
    device: str
    gpu: Gpu | None

    def run(self) -> Iterable[AnyRecord]:
        of = deploy(self.name, self.folder)
        if not of.expected_file.exists():
            yield self.failure(UNPREPARED)
            return
        each = self._contender()
        each = replace(each, open=cache(each.open))
        row = measure(self.name, each, np.load(of.expected_file))
        is_engine = bool(self.tensorrt) and each.name.startswith(self.tensorrt)
        yield msgspec.structs.replace(row, bounds=bounds(of, each.precision, self.gpu) if is_engine else ())
        if self.device == "cuda" and each.precision in PROFILED and not row.reason:
            yield from device_times(row, each.open())

    def failure(self, reason: str) -> DenoiserRow:
        each = self._contender()
        return DenoiserRow(self.name, each.name, each.precision, reason=reason)

    def _contender(self) -> Contender:
        return list(contenders(deploy(self.name, self.folder), self.tensorrt, self.device))[self.number]


def measurements(names: Sequence[str], folder: Path, tensorrt: str, device: str, gpu: Gpu | None) -> list[Measurement]:
    """Return all contenders of all denoisers: the first contenders of each, then the next of each."""
    counts = {name: len(list(contenders(deploy(name, folder), tensorrt, device))) for name in names}
    return [
        Measurement(name, folder, number, tensorrt, device, gpu)
        for first in range(0, max(counts.values(), default=0), 2)
        for name in names
        for number in range(first, min(first + 2, counts[name]))
    ]


def measure(denoiser: str, each: Contender, expected: np.ndarray, batches: Sequence[int] = BATCHES) -> DenoiserRow:
    """Compare a contender's samples of the seeds from 0 on with the expected ones, and time it. Figures from before
    a failure are kept.
    """
    row = DenoiserRow(denoiser, each.name, each.precision)
    try:
        sample = each.open()
        row = agreement(row, sample, expected, max(batches))
        for batch in batches:
            row = msgspec.structs.replace(row, timings=(*row.timings, timing(sample, batch)))
    except Exception as error:  # engines and torch share no base class but Exception
        return msgspec.structs.replace(row, reason=reason_of(error))
    return row


def agreement(row: DenoiserRow, sample: Sample, expected: np.ndarray, size: int) -> DenoiserRow:
    """The row with the PSNR of samples, drawn `size` at a time."""
    count = len(expected)
    made = np.concatenate([sample(range(at, min(at + size, count))) for at in range(0, count, size)])
    decibels = psnr(made, expected)
    mean, least = float(decibels.mean()), float(decibels.min())
    if not math.isfinite(mean):
        return msgspec.structs.replace(row, reason="samples are not finite")
    return msgspec.structs.replace(row, mean=mean, least=least)


def timing(sample: Sample, batch: int) -> Timing:
    """The times of calls, after three that are not counted."""
    seeds = range(batch)
    for _ in range(3):
        sample(seeds)
    times: list[float] = []
    until = time.perf_counter() + SECONDS
    while len(times) < LEAST or time.perf_counter() < until:
        started = time.perf_counter()
        sample(seeds)
        times.append(time.perf_counter() - started)
    return Timing(batch, 1e3 * float(np.median(times)), 1e3 * float(np.percentile(times, 99)))
