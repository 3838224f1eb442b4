"""`fewstep report`: write the report page, and print its measurements as a table."""

from fewstep.cli.describe.results_table import describe_work, format_results, suggest_after_measure
from fewstep.cli.outcome import Outcome
from fewstep.report.options import ReportOptions
from fewstep.report.report import report
from fewstep.report.report_task import WRITTEN, open_report_task
from fewstep.runtime.progress import Progress


def verb(options: ReportOptions, progress: Progress) -> Outcome:
    results = report(options, progress)
    page = options.output or options.bundle / "report" / "index.html"
    shown = (*format_results(results, options.bundle), f"{page}: the report")
    return Outcome(results, shown, then=suggest_after_measure(results, options.bundle, options))


def dry_run(options: ReportOptions) -> Outcome:
    return describe_work(open_report_task(options), options.output, WRITTEN)
