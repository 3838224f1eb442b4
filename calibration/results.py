"""What a report measured: frozen structs, stored as JSON beside the page, for programs that compare figures.

Every PSNR names its reference. There are two and they are never mixed: the float32 body along the same plan (what
quantization costs) and the float32 teacher of many steps (what the few steps cost, and what both cost together).
"""

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.machine import Machine
from fewstep.calibration.metrics import Drift
from fewstep.calibration.speed import Race
from fewstep.runtime.manifest import Coverage, Strict

SCHEMA = 1


class EndQuality(Strict, frozen=True):
    """PSNR of finished samples over held-out seeds 0 .. len(values) - 1, in dB, before clamping."""

    reference: str  # what the samples were compared with, in words
    mean: float
    p5: float
    worst: float
    standard_error: float  # of the mean
    values: tuple[float, ...]  # per seed
    drift: Drift

    @property
    def seeds(self) -> int:
        return len(self.values)


class StepQuality(Strict, frozen=True):
    """One step of the plan: signal to noise ratios in dB, int8 against float32, over all samples.

    forced: of the guided network output, both networks fed the float trajectory (what this step adds).
    x0, x: of the predicted clean sample and of the state after the step, each along its own trajectory (what has
    accumulated). The difference between the two kinds is what a single-step measure misses.
    """

    index: int
    time: float
    lam: float | None  # None: pure noise
    group: int
    forced: float
    x0: float
    x: float


class Quality(Strict, frozen=True):
    """One int8 body: how it was run, and how far it is from float32."""

    body: str
    target: str
    engine: str  # what computed it: "onnxruntime", or in words which numerics of another engine were simulated
    against_float: EndQuality
    against_teacher: EndQuality
    steps: tuple[StepQuality, ...]
    forced_seeds: int


class Operation(Strict, frozen=True):
    """One multiplying operation of the body: its share of the work, whether it is int8, and if not, why."""

    name: str
    kind: str
    channels: tuple[int, int] | None  # in, out; None: no factor is a weight
    macs: int  # per sample
    precision: Literal["int8", "float"]
    reason: str  # why it is float; empty for int8


class Covered(Strict, frozen=True):
    """Coverage of one body, operation by operation."""

    body: str
    coverage: Coverage
    operations: tuple[Operation, ...]


class RangeOverGroups(Strict, frozen=True):
    """Width of one activation's range in each lambda group, from noise to clean, relative to the pooled range."""

    activation: str  # in words: "input of middle.conv1/Conv"
    widths: tuple[float, ...]


class Results(Strict, frozen=True):
    """All figures of one report."""

    schema: int
    bundle: str
    plan: str
    guidance: float | None
    teacher: str  # the plan of the float32 teacher
    batch: int
    float_against_teacher: EndQuality
    qualities: tuple[Quality, ...]
    covered: tuple[Covered, ...]
    ranges: tuple[RangeOverGroups, ...]
    races: tuple[Race, ...]
    sizes: dict[str, int]  # body -> bytes of its graph and weights
    machine: Machine
    command: str
    seconds: float  # what the report itself took
    notes: tuple[str, ...] = ()


def end_quality(values: NDArray[np.float64], drift: Drift, reference: str) -> EndQuality:
    """Summarize per-image PSNR values [seeds]."""
    spread = float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return EndQuality(
        reference=reference,
        mean=float(values.mean()),
        p5=float(np.percentile(values, 5)),
        worst=float(values.min()),
        standard_error=spread,
        values=tuple(values.tolist()),
        drift=drift,
    )


def encode(results: Results) -> bytes:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(results), indent=1)


def decode(data: bytes) -> Results:
    """Results from JSON."""
    return msgspec.json.decode(data, type=Results)
