"""`fewstep report`: the figures of the page as a table."""

from rich.filesize import decimal
from rich.table import Table

from fewstep.cli.outcome import Outcome
from fewstep.cli.tables import figures
from fewstep.cli.trials import TOKENS, quality_cells, quality_heads
from fewstep.graph.needs import check_memory, duration
from fewstep.measure.bodies import is_native
from fewstep.measure.cost import seconds_of_one
from fewstep.measure.judged_task import JudgedTask
from fewstep.measure.results import Quality, Results
from fewstep.measure.teacher import CHECKED
from fewstep.measure.workers.opening import warn_of_workers
from fewstep.report.drawing.plan_view import headline
from fewstep.report.measure import Shown
from fewstep.report.options import ReportOptions
from fewstep.report.verdict import warnings
from fewstep.report.write import WRITTEN, open_report, report, shown_of
from fewstep.runtime.progress import Progress


def verb(options: ReportOptions, progress: Progress) -> Outcome:
    results = report(options, progress)
    page = options.output or options.bundle / "report" / "index.html"
    teacher = () if results.teacher_check is None else (str(results.teacher_check),)
    return Outcome(results, (table(results), *teacher, *warnings(results), f"{page}: the report"))


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


def table(results: Results) -> Table:
    """Figures of the bodies side by side, all as measured."""
    judged = "; ".join(f"{each.body}: {each.against_float.seeds} seeds, {each.engine}" for each in results.qualities)
    qualities = {quality.body: quality for quality in results.qualities}
    rows = [
        (body, *_quality(qualities.get(body)), _coverage(results, body), decimal(size), *_speeds(results, body))
        for body, size in results.sizes.items()
    ]
    of_tokens = any(quality.tokens for quality in results.qualities)
    quality = TOKENS if of_tokens else "PSNR in dB, mean and 5th percentile, against float32 along the same plan"
    return figures(
        f"{results.bundle}, {results.plan}",
        (*quality_heads(of_tokens), "int8", "size", *(f"batch {race.batch}" for race in results.races)),
        rows,
        f"{quality} ({judged}). int8: share of MACs. Batch: one call of the body with so many rows, times faster than "
        "float32.",
    )


def _quality(quality: Quality | None) -> tuple[str, str]:
    return ("", "") if quality is None else quality_cells(quality)


def _coverage(results: Results, body: str) -> str:
    share = results.int8_share(body)
    return "" if share is None else f"{100 * share:.1f} %"


def _speeds(results: Results, body: str) -> list[str]:
    """Per race: times faster than float32, and milliseconds; empty for a body that does not run on this machine."""
    cells = []
    for each in results.races:
        timing = next((timing for timing in each.timings if timing.name == body), None)
        cells.append("" if timing is None else f"{timing.ratio:.2f}x {1e3 * timing.median:.3g} ms")
    return cells
