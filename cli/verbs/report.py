"""`fewstep report`: the figures of the page as a table."""

from fewstep.cli.measured_table import measured_table
from fewstep.cli.outcome import Outcome
from fewstep.graph.needs import check_memory, duration
from fewstep.measure.workers.opening import warn_of_workers
from fewstep.report.drawing.plan_view import headline
from fewstep.report.options import ReportOptions
from fewstep.report.verdict import costliest, warnings
from fewstep.report.write import WRITTEN, open_report, report
from fewstep.runtime.progress import Progress


def verb(options: ReportOptions, progress: Progress) -> Outcome:
    results = report(options, progress)
    page = options.output or options.bundle / "report" / "index.html"
    is_image = any(each.against_float.ssim for each in results.qualities)
    teacher = () if results.teacher_check is None else (str(results.teacher_check),)
    first = (verdict,) if (verdict := costliest(results, options.bundle)) else ()
    table = measured_table(results, is_image)
    return Outcome(results, (*first, table, *teacher, *warnings(results), f"{page}: the report"))


def dry_run(options: ReportOptions) -> Outcome:
    asked = open_report(options)
    assert asked.judged is not None
    task, expected = asked.judged, asked.estimate()
    plan, teacher = task.plan, task.teacher
    judged = {each.name: each.seeds for each in task.contenders}
    doubt = ", if this teacher suffices" if teacher and not options.teacher else ""
    needed = task.needs(*WRITTEN)
    check_memory(needed, options.bundle)
    warn_of_workers(options.setup)
    return Outcome(
        {
            "bundle": options.bundle,
            "plan": plan.name,
            "seeds": judged,
            "evaluations": expected.evaluations,
            "seconds": expected.sampling,
            "timing_seconds": expected.timing,
            "needs": needed,
        },
        (
            headline(plan),
            f"would judge {', '.join(f'{name} on {seeds} seeds' for name, seeds in judged.items())}, "
            f"against float32 along the same plan{f' and the teacher, {teacher.name}' if teacher else ''}",
            f"{expected.evaluations} evaluations of one sample, with both branches of guidance in one, take about "
            f"{duration(expected.sampling)} at float32's speed here{doubt}",
            f"timing takes {duration(expected.timing)} more, on a machine that should do nothing else",
            f"would write {options.output or options.bundle / 'report'}",
            needed.said(options.bundle),
        ),
    )
