"""What can be asked of a report."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from fewstep.calibration.held_out import PAIRED
from fewstep.evaluation.speed.race import LONGEST_TURN, check_batches
from fewstep.plans.errors import UserError
from fewstep.runtime.options import Options


@dataclass(frozen=True)
class ReportOptions(Options):
    """Judge a bundle: what int8 costs in quality, step by step, what it wins in time, and which operations it covers.

    bundle: the bundle; the report is written into it.
    output: an HTML file to write instead, its figures as JSON beside it; the bundle stays as it is. A plan or a
        guidance that the bundle was not calibrated along needs it: the bundle keeps the report of what is deployed.
    plan: SOLVER:STEPS, or the path of a plan's JSON; empty for the plan the int8 body was calibrated along.
    guidance: weight of classifier-free guidance; by default that of the calibrated plan.
    conditions: values of your own, as calibrate takes them, but others than it was given; left out, random ones.
    prompts: prompts of your own, a text file with one a line, but others than calibrate was given; left out, some that
        come with fewstep.
    seeds: held-out seeds 0 .. seeds - 1 for the end PSNR.
    forced_seeds: how many of them are judged step by step on the float trajectory too.
    teacher: plan of the float32 teacher; by default one of 200 steps, or of all timesteps where there are fewer.
    teacher_seeds: how many seeds the teacher samples (they are also the ones shown).
    simulated_seeds: seeds for bodies of other engines, whose numerics are simulated, slowly.
    batches: samples in one timed call of the body; a guided sample is two rows.
    threads: threads of one call; 0 for all cores this process may use.
    rounds: turns each contender takes in a timing.
    turn_seconds: how long a turn is.
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
        check_batches(self.batches)

    @property
    def command(self) -> str:
        """The command line that asks for this report: options that differ from their defaults, and nobody's folders."""
        words = ["fewstep report BUNDLE"]
        for option in dataclasses.fields(self)[1:]:
            value = getattr(self, option.name)
            if value != option.default:
                text = ",".join(map(str, value)) if isinstance(value, tuple) else Path(str(value)).name
                words += [f"--{option.name.replace('_', '-')}", text]
        return " ".join(words)
