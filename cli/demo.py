"""The demo: options for every verb from export to report, run one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.lowering.targets import USUAL
from fewstep.calibration.options import CalibrateOptions, check_options
from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.sampling import run
from fewstep.cli.run_plan import check_reference
from fewstep.export.export import ExportOptions, export
from fewstep.measure.results import Results
from fewstep.plans.file import decode
from fewstep.plans.guidance import Guidance, weight_of
from fewstep.plans.names.plan_reference import FittedReference, TextReference, parse_plan_text
from fewstep.report.options import ReportOptions
from fewstep.report.report import report
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.manifest import FittedPlan
from fewstep.runtime.bundle.platforms import ONNXRUNTIME, rank_platforms, target_of
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.options import Options
from fewstep.runtime.progress import SILENT, Progress, prefix_stages

TIME, FULL_TIME = "about 70 seconds", "about five minutes"  # with the shipped denoiser
FEW = 8  # trajectories: int8 is 0.6 dB worse than with 64
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


def demo(options: DemoOptions, progress: Progress = SILENT) -> tuple[Results, FittedPlan | None]:
    """Make `options.bundle` and its pictures. Return the results of the report, and the fitted plan that was sampled,
    or None without one."""
    to_calibrate = check_demo(options)
    export(ExportOptions(source=options.source, output=options.bundle), prefix_stages(progress, "export"))
    calibration = calibrate(to_calibrate, prefix_stages(progress, "calibrate"))
    precisions = (
        ("float32", "int8")
        if any(each.name in options.targets for each in rank_platforms(ONNXRUNTIME))
        else ("float32",)
    )
    for precision in precisions:
        grid = _grid_options(options, calibration.plan.guidance, options.plan, f"samples-{precision}.png", precision)
        run(grid, prefix_stages(progress, f"run in {precision}"))
    few = find_fewest_evaluations(open_bundle(options.bundle), calibration.plan.guidance)
    if few is not None:
        for kind, plan in (("nominal", parse_plan_text(few.nominal)), ("fitted", FittedReference(few.evaluations))):
            run(
                _grid_options(options, calibration.plan.guidance, plan, _picture_name(few, kind)),
                prefix_stages(progress, f"run {plan}"),
            )
    return report(options.report_options, prefix_stages(progress, "report")), few


def check_demo(options: DemoOptions) -> CalibrateOptions:
    """Raise now the UserErrors that later verbs would raise after minutes. Return the options of `calibrate`."""
    check_reference(options.plan)
    to_calibrate = CalibrateOptions(
        bundle=options.bundle, plan=options.plan, target=options.targets, guidance=options.guidance
    )
    if not options.full:
        to_calibrate = replace(to_calibrate, trajectories=FEW)
    check_options(to_calibrate)
    return to_calibrate


def find_fewest_evaluations(bundle: Bundle, guidance: Guidance | None) -> FittedPlan | None:
    """Return the fitted plan with the fewest evaluations for float32 at a guidance; None without one."""
    plans = ((each, decode(bundle.read(each.file), each.file)) for each in bundle.manifest.fitted)
    fitted = (each for each, plan in plans if each.body == "float32" and plan.guidance == guidance)
    return min(fitted, key=lambda each: each.evaluations, default=None)


def _picture_name(few: FittedPlan, kind: str) -> str:
    return f"samples-{few.evaluations}-{kind}.png"


def _grid_options(
    options: DemoOptions, guidance: Guidance | None, plan: TextReference, picture: str, precision: str = "float32"
) -> RunOptions:
    """Return the options for a grid with four samples of each class, one class per column."""
    conditions = open_bundle(options.bundle).manifest.conditions
    classes = next((each for each in conditions if each.labels), None)
    labels: Sequence[str] = classes.labels if classes else ()
    return RunOptions(
        bundle=options.bundle,
        plan=plan,
        precision=precision,
        samples=4 * (len(labels) or 4),
        condition=tuple(f"{classes.name}={label}" for label in labels) if classes else (),
        guidance=weight_of(guidance),
        output=options.output / picture,
        columns=len(labels) or 4,
    )
