"""`fewstep bench`: milliseconds of a call, side by side."""

from rich.table import Table

from fewstep.cli.outcome import Outcome
from fewstep.cli.tables import figures
from fewstep.measure.speed.bench import BenchOptions, bench
from fewstep.measure.speed.race import Race
from fewstep.runtime.progress import Progress


def verb(options: BenchOptions, progress: Progress) -> Outcome:
    measured = bench(options, progress)
    machine = measured.machine
    int8 = ", ".join(machine.int8_instructions) or "no int8 instructions seen"
    waiting = "spinning" if measured.spinning else "sleeping"
    return Outcome(
        measured,
        (
            f"{measured.model} along {measured.plan} on {machine.processor} ({int8}), threads {waiting}",
            *(_table(race) for race in measured.races),
            *(f"note: {note}" for note in measured.notes),
        ),
    )


def _table(race: Race) -> Table:
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


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"
