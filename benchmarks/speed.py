"""Does int8 win enough? `fewstep measure`, held against a bar: 1.4x for fashion_mnist, 1.8x for DDPM's network.

    python -m benchmarks.speed BUNDLE [--json]
    python -m benchmarks.speed --ddpm [--json]

The exit code is 0 if the bar is met where int8 wins least, 1 if not.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import options
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.cli.outcome import tell
from fewstep.cli.output_flags import Manner
from fewstep.cli.progress import progress_display
from fewstep.cli.verbs.measure import verb
from fewstep.export.export import ExportOptions, export
from fewstep.measure.measure import MeasureOptions
from fewstep.measure.results import Results
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.platforms import CPU_X86, body_name
from fewstep.runtime.bundle.reading import open_bundle

DDPM = Path(__file__).parent / "races/ddpm_cifar10.py"
BARS = {"fashion_mnist": 1.4, "ddpm_cifar10": 1.8}
INT8 = body_name("int8", CPU_X86.name)


def check(bundle: Path) -> None:
    """UserError if there is nothing to hold against a bar."""
    if INT8 not in open_bundle(bundle).manifest.bodies:
        raise UserError(f"{bundle} has no {INT8} to time", f"fewstep calibrate {bundle} --target {CPU_X86.name}")


@contextmanager
def untrained() -> Iterator[Path]:
    """A bundle of DDPM's network for as long as the block runs. Random weights have no quality that few trajectories
    could cost."""
    with TemporaryDirectory() as folder:
        bundle = Path(folder) / DDPM.stem
        export(ExportOptions(f"{DDPM}:make", bundle))
        calibrate(CalibrateOptions(bundle, "dpmpp_2m:4", (CPU_X86.name,), trajectories=4))
        yield bundle


def main(given: Sequence[str] | None = None) -> int:
    parser = options.parser_of(__doc__)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--ddpm", action="store_true", help="DDPM's network on CIFAR-10 with random weights instead")
    options.add_json(parser)
    arguments = parser.parse_args(given)
    try:
        if (arguments.bundle is None) != arguments.ddpm:
            raise UserError("speed times one thing", "give a BUNDLE, or --ddpm")
        if arguments.bundle is not None:
            check(arguments.bundle)
        with progress_display() as progress, untrained() if arguments.ddpm else nullcontext(arguments.bundle) as bundle:
            outcome = verb(MeasureOptions(bundle, ("ms",)), progress)
    except UserError as error:
        parser.error(str(error))
    tell(outcome, Manner(json=arguments.json))
    found = outcome.value
    assert isinstance(found, Results)
    ratio, bar = found.ratio(INT8), BARS.get(found.model)
    assert ratio is not None  # it is there, and runs here
    said = f"no bar for {found.model}" if bar is None else f"bar: {bar}x"
    print(f"{INT8} is {ratio:.2f}x float32 ({said})", file=sys.stderr)
    return 0 if ratio >= (bar or 0.0) else 1


if __name__ == "__main__":
    sys.exit(main())
