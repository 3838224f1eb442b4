"""`fewstep measure`: the figures as a table, one for each race, and what they amount to."""

from rich.table import Table

from fewstep.cli.measured_table import measured_table
from fewstep.cli.outcome import Outcome
from fewstep.cli.tables import figures
from fewstep.graph.needs import check_memory, duration
from fewstep.measure.estimate import Estimate
from fewstep.measure.judged_task import JudgedTask
from fewstep.measure.measure import ROOM, MeasureOptions, measure, open_task
from fewstep.measure.results import Results
from fewstep.measure.speed.race import Race
from fewstep.measure.workers.opening import warn_of_workers
from fewstep.report.drawing.plan_view import headline
from fewstep.report.verdict import costliest, distant, verdicts
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.progress import Progress

NO_FEATURES = "no distances between distributions: give --features FILE.onnx, an extractor that knows the data"
IMAGE_AXES = 3  # channels, height, width


def verb(options: MeasureOptions, progress: Progress) -> Outcome:
    results = measure(options, progress)
    stored = f"{options.bundle}, and its next report" if results.qualities else None
    where = options.output or stored
    end = () if where is None else (f"{where}: the figures, measured in {results.seconds:.0f} s",)
    teacher = () if results.teacher_check is None else (str(results.teacher_check),)
    lacking = () if results.features or "fd" not in options.columns else (NO_FEATURES,)
    is_image = len(open_bundle(options.bundle).manifest.x_shape) == IMAGE_AXES
    tables = [measured_table(results, is_image)] if options.columns != ("ms",) else []
    said = (*teacher, *distant(results.qualities), *verdicts(results), *lacking)
    first = (verdict,) if (verdict := costliest(results, options.bundle)) else ()
    return Outcome(results, (*first, *tables, *said, *_speed(results), *end))


def dry_run(options: MeasureOptions) -> Outcome:
    task, lines = open_task(options), list[str]()
    value: dict[str, object] = {"bundle": options.bundle}
    expected = task.estimate()
    if task.judged is not None:
        more, said = _judging(task.judged, options, expected)
        value, lines = value | more, [headline(task.plan), *said]
    if task.timed is not None:
        value["timing_seconds"] = expected.timing
        lines.append(f"timing takes {duration(expected.timing)}, on a machine that should do nothing else")
    where = options.output or (options.bundle / "report" if task.judged is not None else None)
    lines += [] if where is None else [f"would write {where}"]
    return Outcome(value, tuple(lines))


def _judging(task: JudgedTask, options: MeasureOptions, expected: Estimate) -> tuple[dict[str, object], list[str]]:
    extractor = task.extractor
    sampled = max(task.count, task.featured if extractor else 0)
    also = f", and {task.featured} others in float32, for FD({extractor.name})" if extractor else ""
    needed = task.needs(ROOM)
    check_memory(needed, options.bundle)
    warn_of_workers(options.setup)
    value: dict[str, object] = {
        "evaluations": expected.evaluations,
        "seconds": expected.sampling,
        "needs": needed,
        "plan": task.plan.name,
        "bodies": list(task.bodies),
        "features": extractor and extractor.name,
        "seeds": task.count,
        "samples": sampled,
    }
    teacher = [] if task.teacher is None else [f"and {task.taught} of them with the teacher, {task.teacher.name}"]
    said = [
        f"would sample {sampled} seeds with float32, {', '.join(task.bodies)}{also}",
        *teacher,
        f"{expected.evaluations} evaluations of one sample, with both branches of guidance in one, take about "
        f"{duration(expected.sampling)} at float32's speed here",
        needed.said(options.bundle),
    ]
    return value, said


def _speed(results: Results) -> list[str | Table]:
    """A table for each batch size, under the machine, and the notes."""
    if not results.races:
        return []
    machine, waiting = results.machine, "spinning" if results.spinning else "sleeping"
    int8 = ", ".join(machine.int8_instructions) or "no int8 instructions seen"
    return [
        f"{results.bundle} along {results.plan} on {machine.processor} ({int8}), threads {waiting}",
        *(_race(race) for race in results.races),
        *(_kinds(race) for race in results.races[:1] if any(each.kinds for each in race.timings)),
        *(f"note: {note}" for note in results.notes),
    ]


def _race(race: Race) -> Table:
    rows = [
        (
            each.name,
            _milliseconds(each.median),
            _milliseconds(each.p99),
            *(f"{ratio:.2f}x" for ratio in (each.ratio, each.ratio_low, each.ratio_high)),
            _milliseconds(each.load),
            f"{each.peak_mib:.0f} MiB" if each.peak_mib else "",
        )
        for each in race.timings
    ]
    return figures(
        f"{race.batch} {'row' if race.batch == 1 else 'rows'}, {race.threads} threads, {race.rounds} rounds",
        ("p50", "p99", "faster", "lowest", "highest", "load", "memory"),
        rows,
        f"Faster: times as fast as {race.timings[0].name}, median, lowest and highest round.",
    )


def _kinds(race: Race) -> Table:
    """The kinds of operation in which onnxruntime spends the steps of bodies."""
    profiled = [each for each in race.timings if each.kinds]
    names = dict.fromkeys(kind for each in profiled for kind in each.kinds)
    rows = [(each.name, *(f"{100 * each.kinds.get(kind, 0.0):.0f} %" for kind in names)) for each in profiled]
    return figures("Where the time goes", tuple(names), rows, "Shares of a step, from the profile of onnxruntime.")


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"
