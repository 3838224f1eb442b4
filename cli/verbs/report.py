"""`fewstep report`: the figures of the page as a table."""

from fewstep.cli.measured_table import measured_table
from fewstep.cli.outcome import Outcome
from fewstep.graph.needs import check_memory, duration
from fewstep.measure.bodies import is_native
from fewstep.measure.cost import seconds_of_one
from fewstep.measure.judged_task import JudgedTask
from fewstep.measure.teacher import CHECKED
from fewstep.measure.workers.opening import warn_of_workers
from fewstep.report.drawing.plan_view import headline
from fewstep.report.measure import Shown
from fewstep.report.options import ReportOptions
from fewstep.report.verdict import costliest, warnings
from fewstep.report.write import WRITTEN, open_report, report, shown_of
from fewstep.runtime.progress import Progress


def verb(options: ReportOptions, progress: Progress) -> Outcome:
    results = report(options, progress)
    page = options.output or options.bundle / "report" / "index.html"
    is_image = any(each.against_float.ssim for each in results.qualities)
    teacher = () if results.teacher_check is None else (str(results.teacher_check),)
    first = (verdict,) if (verdict := costliest(results)) else ()
    table = measured_table(results, is_image)
    return Outcome(results, (*first, table, *teacher, *warnings(results), f"{page}: the report"))


def dry_run(options: ReportOptions) -> Outcome:
    task = open_report(options)
    plan, teacher, shown = task.plan, task.teacher, shown_of(task, options)
    judged = {each.name: each.seeds for each in shown.contenders}
    raced = (1 + sum(map(is_native, task.bodies.values()))) * len({step.network for step in plan.steps})
    timing = len(options.batches) * raced * (options.rounds + 1) * options.turn_seconds
    count = evaluations(task, shown)
    doubt = ", if this teacher suffices" if teacher and not options.teacher else ""
    seconds = count * seconds_of_one(task.reference, task.timed_plan(), task.rows)
    needed = task.needs(*WRITTEN)
    check_memory(needed, options.bundle)
    warn_of_workers(options.workers, options.threads)
    return Outcome(
        {
            "bundle": options.bundle,
            "plan": plan.name,
            "seeds": judged,
            "evaluations": count,
            "seconds": seconds,
            "timing_seconds": timing,
            "needs": needed,
        },
        (
            headline(plan),
            f"would judge {', '.join(f'{name} on {seeds} seeds' for name, seeds in judged.items())}, "
            f"against float32 along the same plan{f' and the teacher, {teacher.name}' if teacher else ''}",
            f"{count} evaluations of one sample, with both branches of guidance in one, take about "
            f"{duration(seconds)} at float32's speed here{doubt}",
            f"timing takes {duration(timing)} more, on a machine that should do nothing else",
            f"would write {options.output or options.bundle / 'report'}",
            needed.said(options.bundle),
        ),
    )


def evaluations(task: JudgedTask, shown: Shown) -> int:
    """How often a network runs for one sample: of all bodies and float32, and of the teacher and its check, if
    the first teacher suffices. Tokens have no teacher; a body sees float32's states, and runs by itself."""
    steps = len(task.plan.steps)
    if task.teacher is None:
        return 3 * steps * sum(each.seeds for each in shown.contenders)
    long = len(task.teacher.steps)
    # a forced seed also runs both bodies under another condition
    judged = shown.seeds + sum(each.seeds + 3 * each.forced_seeds for each in shown.contenders)
    check = min(CHECKED, shown.taught) * (steps + 3 * long)
    return judged * steps + shown.taught * long + check
