"""`fewstep demo`: run the verbs from a network to a report, on a denoiser that comes with fewstep."""

import time
from collections import deque

from fewstep.cli.demo import check_demo, demo
from fewstep.cli.demo_options import DemoOptions
from fewstep.cli.describe.results_table import format_results, suggest_after_measure
from fewstep.cli.outcome import Outcome, pluralize
from fewstep.export.export_options import ExportOptions
from fewstep.export.network_sources import check_sources as check_export
from fewstep.runtime.bundle.manifest import FittedPlan
from fewstep.runtime.progress import ESTIMATES, Progress


def verb(options: DemoOptions, progress: Progress) -> Outcome:
    ESTIMATES.info("%s", options.duration)
    started = time.perf_counter()
    results, few = demo(options, progress)
    pictures = sorted(options.output.glob("samples-*.png"))
    page = options.bundle / "report" / "index.html"
    seconds = time.perf_counter() - started
    return Outcome(
        {"bundle": options.bundle, "pictures": pictures, "report": page, "seconds": seconds, "results": results},
        (
            *format_results(results, options.bundle),
            *(f"{picture}: samples, one class per column" for picture in pictures),
            *([] if few is None else [_describe_gain(few)]),
            f"{page}: the report",
            f"{seconds:.0f} s in total",
        ),
        then=suggest_after_measure(results, options.bundle),
    )


def dry_run(options: DemoOptions) -> Outcome:
    to_calibrate = check_demo(options)
    deque(check_export(ExportOptions(source=options.source, output=options.bundle)), maxlen=0)
    verbs = [
        f"export {options.source} to {options.bundle}",
        f"calibrate along {options.plan}, {to_calibrate.trajectories} trajectories, for {', '.join(options.targets)}",
        f"sample it into {options.output}",
        f"report on {options.report_options.seeds} held-out seeds",
        options.duration,
    ]
    return Outcome({"bundle": options.bundle, "would": verbs}, tuple(verbs))


def _describe_gain(few: FittedPlan) -> str:
    return (
        f"{pluralize(few.evaluations, 'evaluation')}: "
        f"{few.nominal} has {few.nominal_psnr:.1f} dB PSNR against float32 with many steps, "
        f"and the fitted plan has {few.psnr:.1f} dB"
    )
