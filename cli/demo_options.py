"""The options of `fewstep demo`."""

from dataclasses import dataclass, field
from pathlib import Path

from fewstep.calibration.lowering.targets import USUAL
from fewstep.plans.names.plan_reference import TextReference, parse_plan_text
from fewstep.report.options import ReportOptions
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.platforms import target_of
from fewstep.runtime.options import Options

TIME = "about 70 seconds"  # with the shipped denoiser
FULL_TIME = "about five minutes"  # with the shipped denoiser
TEACHER = parse_plan_text("dpmpp_2m:40@arctan")  # 57 dB PSNR against twice as many steps


@dataclass(frozen=True)
class DemoOptions(Options):
    """Export, calibrate, run and judge a denoiser that comes with fewstep.

    source: Name of a shipped model, or FILE.py:FUNCTION.
    output: Folder for the bundle (the exported model) and the pictures.
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
        return self.target or (USUAL if self.full else (target_of(OnnxRuntime().bodies["int8"][0]),))

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
        """The expected time, as text."""
        return f"the demo takes {FULL_TIME if self.full else TIME} on two idle cores"
