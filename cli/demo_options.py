"""The options of `fewstep demo`."""

from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from fewstep.calibration.lowering.targets import usual_targets
from fewstep.graph.resource_needs import format_duration
from fewstep.plans.names.plan_reference import TextReference, parse_plan_text
from fewstep.report.options import ReportOptions
from fewstep.runtime.options import Options

SECONDS, FULL_SECONDS = 100.0, 420.0  # of processor time, with the shipped denoiser on an AMD EPYC with VNNI
PROBE_SECONDS, REPEATS = 0.033, 9  # of processor time of a part of `measure_slowdown` there, and its parts
TEACHER = parse_plan_text("dpmpp_2m:40@arctan")  # 57 dB PSNR against twice as many steps


@dataclass(frozen=True)
class DemoOptions(Options):
    """Export, calibrate, run and judge a denoiser that comes with fewstep.

    source: Name of a shipped model, or FILE.py:FUNCTION.
    output: Folder for the bundle (the exported model) and the images.
    plan: SOLVER:STEPS, the sampling plan for calibration and report.
    target: Targets of the quantization, as cpu-x86. Default: the best one for this machine; with --full the targets of
        `calibrate`.
    guidance: Weight of classifier-free guidance. Default: 2 if the denoiser has an unconditional form.
    full: Use all seeds and timing rounds of `calibrate` and `report`. Default: fewer, enough for a first look.
    """

    source: str = "fashion_mnist"
    output: Path = field(default=Path("fewstep-demo"), metadata={"short": "-o"})
    plan: TextReference = parse_plan_text("dpmpp_2m:8")
    target: tuple[str, ...] = ()
    guidance: float | None = None
    full: bool = False

    @property
    def bundle(self) -> Path:
        return self.output / "bundle"

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets of the quantization."""
        return self.target or (usual_targets() if self.full else usual_targets()[:1])

    @property
    def report_options(self) -> ReportOptions:
        """The options of the report."""
        if self.full:
            return ReportOptions(self.bundle)
        from fewstep.export.sources.shipped import NAMES  # imports torch

        teacher = TEACHER if self.source in NAMES else None  # a user-supplied network may need another teacher
        return ReportOptions(
            self.bundle, teacher=teacher, seeds=32, forced_seeds=8, teacher_seeds=4, rounds=3, turn_seconds=0.2
        )

    @property
    def duration(self) -> str:
        """The expected duration as text, from a short measurement of this machine's speed."""
        seconds = FULL_SECONDS if self.full else SECONDS
        expected = format_duration(seconds * measure_slowdown())
        return f"the demo takes about {expected} at the current speed: {seconds:.0f} seconds of processor time"


def measure_slowdown() -> float:
    """Measure the median wall time of a fixed piece of work, as a multiple of PROBE_SECONDS.

    Most of the demo runs on one thread, so on an idle machine its wall time is about its CPU time.
    """
    import numpy as np  # the command's help does not need it

    values, ends = np.linspace(0.0, 9.0, 200_000), [perf_counter()]
    for _ in range(REPEATS):
        for _ in range(20):
            np.sin(values)
        ends.append(perf_counter())
    return float(np.median(np.diff(ends))) / PROBE_SECONDS
