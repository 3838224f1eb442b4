"""The demo: runs every command from export to report, one after the other, with short settings."""

from collections.abc import Sequence
from dataclasses import replace

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions, check_options
from fewstep.cli.demo_options import DemoOptions
from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.sampling import run
from fewstep.cli.run_plan import check_reference
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.measure.results import Results
from fewstep.plans.file import decode
from fewstep.plans.guidance import Guidance, weight_of
from fewstep.plans.names.plan_reference import FittedReference, TextReference, parse_plan_text
from fewstep.report.report import report
from fewstep.runtime.bundle.manifest import FittedPlan
from fewstep.runtime.bundle.platforms import ONNXRUNTIME, rank_platforms
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.progress import SILENT, Progress, prefix_stages

FEW = 8  # trajectories: int8 is 0.6 dB worse than with 64


def demo(options: DemoOptions, progress: Progress = SILENT) -> tuple[Results, FittedPlan | None]:
    """Make the demo's bundle and its images. Return the results of the report, and the fitted plan that was sampled, or
    None if there is none."""
    to_calibrate = check_demo(options)
    export(ExportOptions(source=options.source, output=options.bundle), prefix_stages(progress, "export"))
    calibration = calibrate(to_calibrate, prefix_stages(progress, "calibrate"))
    precisions = (
        ("float32", "int8")
        if any(platform.name in options.targets for platform in rank_platforms(ONNXRUNTIME))
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
    """Raise, before any work is done, the UserErrors that later verbs would raise after minutes. Return the options of
    `calibrate`."""
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
    plans = ((entry, decode(bundle.read(entry.file), entry.file)) for entry in bundle.manifest.fitted)
    fitted = (each for each, plan in plans if each.body == "float32" and plan.guidance == guidance)
    return min(fitted, key=lambda each: each.evaluations, default=None)


def _picture_name(few: FittedPlan, kind: str) -> str:
    return f"samples-{few.evaluations}-{kind}.png"


def _grid_options(
    options: DemoOptions, guidance: Guidance | None, plan: TextReference, picture: str, precision: str = "float32"
) -> RunOptions:
    """Return the options for a grid with four samples of each class, one class per column."""
    conditions = open_bundle(options.bundle).manifest.conditions
    classes = next((condition for condition in conditions if condition.labels), None)
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
