"""`fewstep bench`: milliseconds of a call, side by side."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.cli.outcome import Outcome
from fewstep.cli.tables import figures
from fewstep.evaluation.speed.bench import BenchOptions, bench
from fewstep.evaluation.speed.race import Race
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.platforms import CPU_X86
from fewstep.runtime.progress import Progress, under

ARCHITECTURES = {"ddpm-cifar10": "ddpm_cifar10"}  # as users write them -> the source that export knows


def verb(options: BenchOptions, progress: Progress) -> Outcome:
    with _bundle(options, progress) as bundle:
        measured = bench(replace(options, bundle=bundle, arch=None), progress)
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


@contextmanager
def _bundle(options: BenchOptions, progress: Progress) -> Iterator[Path]:
    """The bundle asked for, or one made of an architecture, for as long as the block runs."""
    if options.bundle is not None:
        yield options.bundle
        return
    if options.arch not in ARCHITECTURES:
        raise UserError(f"unknown architecture {options.arch!r}", f"choose one of {', '.join(ARCHITECTURES)}")
    from fewstep.export.export import ExportOptions, export

    with TemporaryDirectory() as folder:
        bundle = Path(folder) / options.arch
        export(ExportOptions(ARCHITECTURES[options.arch], bundle), under(progress, "export"))
        # few trajectories and no trials: random weights have no quality to keep
        few = CalibrateOptions(bundle, "dpmpp_2m:4", (CPU_X86.name,), trajectories=4, ranges="channels")
        calibrate(few, under(progress, "calibrate"))
        yield bundle


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
