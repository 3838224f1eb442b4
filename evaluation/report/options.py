"""What can be asked of a report."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from fewstep.evaluation.speed.race import LONGEST_TURN, check_batches
from fewstep.plans.errors import UserError
from fewstep.rollouts.held_out import PAIRED
from fewstep.runtime.options import Options
from fewstep.workers.opening import check_workers


@dataclass(frozen=True)
class ReportOptions(Options):
    """Judge a bundle: what int8 costs in quality, step by step, what it wins in time, and which operations it covers.

    bundle: The bundle; the report is written into it.
    output: An HTML file to write instead, with its figures as JSON beside it; the bundle stays unchanged. A plan or a
        guidance other than the calibrated one needs this option, because the bundle keeps one report, of the calibrated
        plan.
    plan: SOLVER:STEPS, fitted:STEPS, or the path of a plan's JSON. Default: the plan along which the int8 body was
        calibrated.
    guidance: Weight of classifier-free guidance. Default: the weight of the calibrated plan.
    conditions: A file of your own values of the conditions, as calibrate takes it, with values other than those of the
        calibration. Default: random values.
    prompts: A text file of your own prompts, one a line, other than those of the calibration. Default: prompts that
        come with fewstep.
    seeds: Number of held-out seeds, from 0 on, for the end PSNR.
    forced_seeds: Number of these seeds that are also judged step by step, on the float trajectory.
    teacher: Plan of the float32 teacher. Default: dpmpp_2m:80@arctan, doubled until it is exact enough.
    teacher_seeds: Number of seeds that the teacher samples; the page shows the same seeds.
    simulated_seeds: Number of seeds for bodies of other engines, whose numerics are simulated slowly.
    batches: Samples in one timed call of the body; a guided plan doubles its rows.
    threads: Threads of one call, on which last bits may depend; 0 for all cores that this process may use, or, where
        workers sample, one.
    workers: Processes of this machine that sample, with bitwise the same result for any number of them. Each has the
        weights in memory. 0 for this process alone.
    dask: Address of a Dask scheduler, as tcp://host:8786, whose workers sample.
    rounds: Turns that each contender takes in a timing.
    turn_seconds: Length of a turn in seconds.
    """

    bundle: Path
    output: Path | None = field(default=None, metadata={"short": "-o"})
    plan: str = ""
    guidance: float | None = None
    conditions: Path | None = None
    prompts: Path | None = None
    seeds: int = 256
    forced_seeds: int = 32
    teacher: str | None = None
    teacher_seeds: int = 10
    simulated_seeds: int = 32
    batches: tuple[int, ...] = (1, 8)
    threads: int = 0
    workers: int = 0
    dask: str | None = None
    rounds: int = 7
    turn_seconds: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is not None and self.output.suffix != ".html":
            raise UserError(f"the report is a page, not {str(self.output)!r}", "name a file that ends in .html")
        if self.seeds > len(PAIRED):
            raise UserError(f"--seeds is {self.seeds}", f"give at most {len(PAIRED)}: so many are held out")
        for name in ("seeds", "forced_seeds", "teacher_seeds", "simulated_seeds", "rounds"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}", "give at least 1")
        if not 0 < self.turn_seconds <= LONGEST_TURN:
            raise UserError(f"--turn-seconds is {self.turn_seconds:g}", f"give more than 0, at most {LONGEST_TURN:g}")
        if self.threads < 0:
            raise UserError(f"--threads is {self.threads}", "give at least 1, or 0 for all cores")
        check_workers(self.workers, self.dask)
        check_batches(self.batches)

    @property
    def command(self) -> str:
        """The command line that asks for this report: options that differ from their defaults, and nobody's folders."""
        words = ["fewstep report BUNDLE"]
        for option in dataclasses.fields(self)[1:]:
            value = getattr(self, option.name)
            if value != option.default and option.name not in ("workers", "dask"):  # whose number changes no figure
                text = ",".join(map(str, value)) if isinstance(value, tuple) else Path(str(value)).name
                words += [f"--{option.name.replace('_', '-')}", text]
        return " ".join(words)
