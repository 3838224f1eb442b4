"""The options of a choice."""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fewstep.graph.files.output_files import check_writable
from fewstep.measure.judged_reference import ReferenceOptions
from fewstep.measure.judges.options import JudgeOptions
from fewstep.measure.rollouts.seeds import PAIRED
from fewstep.measure.speed.race import LARGEST_BATCH
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.checks import check_threads
from fewstep.runtime.memory_size import parse_bytes
from fewstep.runtime.options import BundleOptions

MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}  # by the unit of a time
LEAST_SEEDS = 2  # minimum number of seeds, for a standard error


@dataclass(frozen=True)
class ChooseOptions(BundleOptions, ReferenceOptions, JudgeOptions):
    """Choose sampling plan, precision and engine on this machine: the best samples within a time, or the fastest ones
    of a quality.

    Every precision that an engine here runs is judged along several plans, and timed in turns. Measurements are cached,
    so a second choice takes moments. `fewstep run --chosen` runs the winner.

    bundle: The folder of the bundle (an exported model).
    within: The longest time of a call, from the prompt, or from noise, to finished samples, as 20ms.
    at_least: The least mean PSNR against float32 with many steps (the teacher), as 40dB. Default with --within
        and without --judge: 25dB in PSNR or in signal to error (samples can leave the range that PSNR assumes), and
        15dB signal to error.
    memory: The most memory of a run, from the prompt to the picture if the bundle has the networks for it, as 2GB.
        Bodies that need more are left out, and onnxruntime runs the others. `run --chosen` keeps to it.
    plan: SOLVER:STEPS, scheduler:STEPS or fitted:STEPS, instead of the default plans: the calibrated plan's solver and
        grid at 2 to 16 steps, the model's own scheduler at the same, and the bundle's fitted plans.
    batch: Samples per call.
    seeds: Number of held-out seeds for the judgement, counted from 0.
    threads: CPU threads of a call; 0 tries one per physical core, and a single one.
    output: An .svg file for a plot of quality over time.
    """

    within: str | None = None
    at_least: str | None = None
    memory: str | None = None
    plan: tuple[str, ...] = ()
    batch: int = 1
    seeds: int = 16
    threads: int = 0
    output: Path | None = field(default=None, metadata={"short": "-o"})

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.milliseconds, self.decibels, self.memory_bytes  # raise UserError for invalid values
        if not 1 <= self.batch <= LARGEST_BATCH:
            raise UserError(f"--batch is {self.batch}", f"give a number from 1 to {LARGEST_BATCH}")
        check_threads(self.threads)
        if not LEAST_SEEDS <= self.seeds <= len(PAIRED):
            raise UserError(f"--seeds is {self.seeds}", f"give {LEAST_SEEDS} to {len(PAIRED)}")
        if self.output is not None and self.output.suffix != ".svg":
            raise UserError(f"the plot cannot be written to {str(self.output)!r}", "name a file that ends in .svg")
        if self.output is not None:
            check_writable(self.output)

    @property
    def is_limited(self) -> bool:
        """Whether a limit of time, of quality or of memory is given, by which one deployment is chosen."""
        return (self.within, self.at_least, self.judge, self.memory) != (None,) * 4

    @property
    def milliseconds(self) -> float | None:
        """The time limit `within` in milliseconds; None if none is given."""
        fix = "write a time with its unit, as 20ms or 1.5s"
        value = None if self.within is None else _quantity("within", self.within, MILLISECONDS, fix)
        if value is not None and value <= 0:
            raise UserError(f"--within is {self.within!r}", fix)
        return value

    @property
    def memory_bytes(self) -> int | None:
        """The limit `memory` in bytes; None if none is given."""
        return None if self.memory is None else parse_bytes(self.memory)

    @property
    def decibels(self) -> float | None:
        """The quality limit `at_least` in dB; None if none is given."""
        return None if self.at_least is None else _quantity("at-least", self.at_least, {"db": 1.0}, "write it as 40dB")


def _quantity(option: str, text: str, units: Mapping[str, float], fix: str) -> float:
    """Parse a number with one of these units, and convert it to the unit whose factor is 1. Raises UserError if it is
    not finite or the unit is missing."""
    match = re.fullmatch(rf"(.+?)({'|'.join(units)})", text.lower().strip())
    value = math.nan
    with suppress(ValueError):
        value = math.nan if match is None else float(match[1]) * units[match[2]]
    if not math.isfinite(value):
        raise UserError(f"--{option} is {text!r}", fix)
    return value
