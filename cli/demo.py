"""`fewstep demo`: every verb in turn, on a denoiser that comes with fewstep."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from fewstep.calibration.calibrate import CalibrateOptions, calibrate
from fewstep.calibration.report import ReportOptions, report
from fewstep.calibration.report.verdict import warnings
from fewstep.calibration.results import Results
from fewstep.cli.report import table
from fewstep.cli.run import RunOptions, run
from fewstep.export.export import ExportOptions, export
from fewstep.runtime.bundle import open_bundle
from fewstep.runtime.progress import SILENT, Progress

ENGINE_MODULES = ("tensorrt_rtx", "polygraphy")  # what building engines needs


@dataclass(frozen=True)
class DemoOptions:
    """Export, calibrate, run and judge a denoiser that comes with fewstep, and build an engine if tools are there.

    source: Name of a shipped model, or FILE.py:FUNCTION.
    output: Folder for the bundle and the pictures.
    plan: SOLVER:STEPS to calibrate along and to judge.
    target: What to lower to.
    guidance: Weight of classifier-free guidance; by default 2 where the denoiser has an unconditional form.
    device: GPUs to build an engine for, where tensorrt-rtx is installed.
    """

    source: str = "fashion_mnist"
    output: Path = field(default=Path("fewstep-demo"), metadata={"short": "-o"})
    plan: str = "dpmpp_2m:8"
    target: tuple[str, ...] = ("cpu-x86", "tensorrt")
    guidance: float | None = None
    device: tuple[str, ...] = ("sm89",)


def verb(options: DemoOptions, progress: Progress) -> None:
    started = time.perf_counter()
    bundle, results = demo(options, progress)
    Console().print(table(results))
    for warning in warnings(results):
        print(warning)
    for engine in open_bundle(bundle).manifest.engines:
        print(f"{bundle / engine.file}: engine for {engine.device}, built and not run")
    for picture in sorted(options.output.glob("samples-*.png")):
        print(f"{picture}: samples, one class a column")
    print(f"{bundle / 'report' / 'index.html'}: the report")
    print(f"{time.perf_counter() - started:.0f} s in all")


def demo(options: DemoOptions, progress: Progress = SILENT) -> tuple[Path, Results]:
    """The bundle, and what the report measured."""
    bundle = options.output / "bundle"
    export(ExportOptions(source=options.source, output=bundle), progress)
    calibration = calibrate(
        CalibrateOptions(bundle=bundle, plan=options.plan, target=options.target, guidance=options.guidance), progress
    )
    if "tensorrt" in options.target and all(find_spec(module) for module in ENGINE_MODULES):
        from fewstep.calibration.build import BuildOptions, build

        build(BuildOptions(bundle=bundle, backend="tensorrt-rtx", device=options.device), progress)
    precisions = ("float32", "int8") if "cpu-x86" in options.target else ("float32",)
    for precision in precisions:
        run(_grid(options, bundle, precision, calibration.plan.guidance), progress)
    return bundle, report(ReportOptions(bundle=bundle), progress)


def _grid(options: DemoOptions, bundle: Path, precision: str, guidance: float | None) -> RunOptions:
    """Four samples of each class, one class a column."""
    classes = next((each for each in open_bundle(bundle).manifest.conditions if each.labels), None)
    labels: Sequence[str] = classes.labels if classes else ()
    return RunOptions(
        bundle=bundle,
        plan=options.plan,
        precision=precision,
        samples=4 * (len(labels) or 4),
        condition=tuple(f"{classes.name}={label}" for label in labels) if classes else (),
        guidance=guidance,
        output=options.output / f"samples-{precision}.png",
        columns=len(labels) or 4,
    )
