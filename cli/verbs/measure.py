"""`fewstep measure`: measure quality and speed. Prints a table of quality, one table of times per batch size, and the
conclusions."""

from rich.table import Table

from fewstep.cli.describe.results_table import describe_work, format_results, suggest_after_measure
from fewstep.cli.outcome import Outcome
from fewstep.cli.tables import table
from fewstep.measure.measure import ROOM, measure, open_measure_task
from fewstep.measure.options import MeasureOptions
from fewstep.measure.results import Results
from fewstep.measure.speed.race import Race
from fewstep.runtime.progress import Progress

NO_FEATURES = "no distances between distributions: give --features FILE.onnx, a feature extractor for this data"


def verb(options: MeasureOptions, progress: Progress) -> Outcome:
    results = measure(options, progress)
    stored = f"{options.bundle}, and its next report" if results.qualities else None
    where = options.output or stored
    end = () if where is None else (f"{where}: the results, measured in {results.seconds:.0f} s",)
    lacking = () if results.features or "fd" not in options.columns else (NO_FEATURES,)
    shown = (*format_results(results, options.bundle), *lacking, *_speed_tables(results), *end)
    return Outcome(results, shown, then=suggest_after_measure(results, options.bundle, options))


def dry_run(options: MeasureOptions) -> Outcome:
    return describe_work(open_measure_task(options), options.output, (ROOM,))


def _speed_tables(results: Results) -> list[str | Table]:
    """Return what is printed about speed: a line about the machine, a table for each batch size, and notes."""
    if not results.races:
        return []
    machine, waiting = results.machine, "spinning" if results.spinning else "sleeping"
    int8 = ", ".join(machine.int8_instructions) or "no int8 instructions found"
    return [
        f"{results.bundle} along {results.plan} on {machine.processor} ({int8}), waiting threads are {waiting}",
        *(_race_table(race) for race in results.races),
        *(_kind_table(race) for race in results.races[:1] if any(timing.kinds for timing in race.timings)),
        *(f"note: {note}" for note in results.notes),
    ]


def _race_table(race: Race) -> Table:
    rows = [
        (
            timing.name,
            _milliseconds(timing.median),
            _milliseconds(timing.p99),
            *(f"{ratio:.2f}x" for ratio in (timing.ratio, timing.ratio_low, timing.ratio_high)),
            _milliseconds(timing.load),
            f"{timing.peak_mib:.0f} MiB" if timing.peak_mib else "",
        )
        for timing in race.timings
    ]
    return table(
        ("body", "p50", "p99", "faster", "lowest", "highest", "load", "memory"),
        rows,
        text=("body",),
        title=f"batch {race.batch} (rows of a call), {race.threads} threads, {race.rounds} rounds",
        caption=f"Faster: speedup{race.measure} over {race.timings[0].name}: median, lowest and highest round.",
    )


def _kind_table(race: Race) -> Table:
    """Return a table with the fraction of time that onnxruntime spends in each type of operation, one row per body."""
    profiled = [timing for timing in race.timings if timing.kinds]
    names = dict.fromkeys(kind for profile in profiled for kind in profile.kinds)
    rows = [(profile.name, *(f"{100 * profile.kinds.get(kind, 0.0):.0f} %" for kind in names)) for profile in profiled]
    title, caption = "Where the time goes", "Shares of the time of a step, from the profile of onnxruntime."
    return table(("body", *names), rows, ("body",), title, caption)


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"
