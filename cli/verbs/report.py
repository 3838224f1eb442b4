"""`fewstep report`: the figures of the page as a table."""

from fewstep.cli.measured import measured, measured_next, work
from fewstep.cli.outcome import Outcome
from fewstep.report.options import ReportOptions
from fewstep.report.write import WRITTEN, open_report, report
from fewstep.runtime.progress import Progress


def verb(options: ReportOptions, progress: Progress) -> Outcome:
    results = report(options, progress)
    page = options.output or options.bundle / "report" / "index.html"
    shown = (*measured(results, options.bundle), f"{page}: the report")
    return Outcome(results, shown, then=measured_next(results, options.bundle))


def dry_run(options: ReportOptions) -> Outcome:
    return work(open_report(options), options.output, WRITTEN)
