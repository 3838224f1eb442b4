"""`fewstep report`: the figures of the page as a table."""

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from fewstep.calibration.report import ReportOptions, report
from fewstep.calibration.report.verdict import warnings
from fewstep.calibration.results import Quality, Results
from fewstep.runtime.progress import Progress


def verb(options: ReportOptions, progress: Progress) -> None:
    results = report(options, progress)
    Console().print(table(results))
    for warning in warnings(results):
        print(warning)
    print(f"{options.bundle / 'report' / 'index.html'}: the report")


def table(results: Results) -> Table:
    """Figures of the bodies side by side, all as measured. Fits in 80 columns."""
    made = Table(
        title=f"{results.bundle}, {results.plan}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    made.add_column("body", no_wrap=True)
    for heading in ("PSNR", "p5", "int8", "size", *(f"batch {race.batch}" for race in results.races)):
        made.add_column(heading, justify="right", no_wrap=True)
    qualities = {quality.body: quality for quality in results.qualities}
    for body, size in results.sizes.items():
        made.add_row(
            body,
            *_quality(qualities.get(body)),
            _coverage(results, body),
            decimal(size),
            *_speeds(results, body),
        )
    judged = "; ".join(f"{each.body}: {each.against_float.seeds} seeds, {each.engine}" for each in results.qualities)
    made.caption = (
        f"PSNR in dB, mean and 5th percentile, against float32 along the same plan ({judged}). int8: share of MACs. "
        f"Batch: one call of the body with so many rows, times faster than float32."
    )
    made.caption_justify = "left"
    return made


def _quality(quality: Quality | None) -> tuple[str, str]:
    if quality is None:
        return "", ""
    return f"{quality.against_float.mean:.1f}", f"{quality.against_float.p5:.1f}"


def _coverage(results: Results, body: str) -> str:
    for covered in results.covered:
        if covered.body == body and covered.coverage.total_macs:
            return f"{100 * covered.coverage.int8_macs / covered.coverage.total_macs:.1f} %"
    return ""


def _speeds(results: Results, body: str) -> list[str]:
    """Per race: times faster than float32, and milliseconds; empty for a body that does not run on this machine."""
    cells = []
    for each in results.races:
        timing = next((timing for timing in each.timings if timing.name == body), None)
        cells.append("" if timing is None else f"{timing.ratio:.2f}x {1e3 * timing.median:.3g} ms")
    return cells
