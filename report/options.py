"""The options of a report."""

from dataclasses import dataclass, field
from pathlib import Path

from fewstep.measure.judgement_options import JudgementOptions
from fewstep.plans.errors import UserError
from fewstep.runtime.options import BundleOptions


@dataclass(frozen=True)
class ReportOptions(BundleOptions, JudgementOptions):
    """Write a report on the int8 graphs of a bundle (an exported model): the quality that int8 loses at each step, the
    time that it saves, and the operations that it covers.

    bundle: The folder of the bundle; the report is written into it.
    output: An HTML file to write instead, with the figures in a JSON file of the same name; the bundle stays unchanged.
        A plan or guidance other than the calibrated one needs this option, because the bundle stores only the report of
        the calibrated plan.
    forced_seeds: Number of seeds that are also judged step by step, from the states of float32's trajectory.
    simulated_seeds: Number of seeds for int8 graphs of other engines, whose arithmetic is simulated slowly.
    """

    output: Path | None = field(default=None, metadata={"short": "-o"})
    forced_seeds: int = field(default=32, metadata={"expert": True})
    simulated_seeds: int = field(default=32, metadata={"expert": True})
    MOST_TAUGHT = 10  # the number of teacher samples on the page

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is not None and self.output.suffix != ".html":
            raise UserError(f"the report is an HTML page, not {str(self.output)!r}", "name a file that ends in .html")
        for name in ("forced_seeds", "simulated_seeds"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}", "give at least 1")
