"""The options of a report."""

from dataclasses import dataclass, field
from pathlib import Path

from fewstep.measure.judged_task import JudgementOptions
from fewstep.plans.errors import UserError


@dataclass(frozen=True)
class ReportOptions(JudgementOptions):
    """Judge a bundle: what int8 costs in quality, step by step, what it wins in time, and which operations it covers.

    bundle: The bundle; the report is written into it.
    output: An HTML file to write instead, with its figures as JSON beside it; the bundle stays unchanged. A plan or a
        guidance other than the calibrated one needs this option, because the bundle keeps one report, of the calibrated
        plan.
    forced_seeds: Number of the seeds that are also judged step by step, on the float trajectory.
    simulated_seeds: Number of seeds for bodies of other engines, whose numerics are simulated slowly.
    """

    bundle: Path
    output: Path | None = field(default=None, metadata={"short": "-o"})
    forced_seeds: int = field(default=32, metadata={"expert": True})
    simulated_seeds: int = field(default=32, metadata={"expert": True})
    MOST_TAUGHT = 10  # which the page shows

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is not None and self.output.suffix != ".html":
            raise UserError(f"the report is a page, not {str(self.output)!r}", "name a file that ends in .html")
        for name in ("forced_seeds", "simulated_seeds"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}", "give at least 1")
