"""Time a bundle, and write the table of its speed in docs/measured.md and the page's images.

    fewstep demo && python -m benchmarks.shipped_models_page fewstep-demo/bundle

Takes some minutes; the machine should do nothing else. `benchmarks.quantization.compare` writes the page's quality.
"""

import textwrap
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import options
from benchmarks.markdown import put_part, table
from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.sampling import run
from fewstep.measure.measure import measure
from fewstep.measure.options import MeasureOptions
from fewstep.measure.results import Results
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.runtime.bundle.reading import open_bundle

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs/pictures"
PAGE = ROOT / "docs/measured.md"
SCRIPT = "benchmarks/shipped_models_page.py"
WIDTH = 100  # of a line of text
PLAN, GUIDANCE, COLUMNS = "dpmpp_2m:8", 2.0, 10


def draw(bundle: Path) -> None:
    """Draw two rows of samples, in float32 and in int8, with the same seeds and one class per column."""
    labels = open_bundle(bundle).manifest.conditions[0].labels
    for precision in ("float32", "int8"):
        run(
            RunOptions(
                bundle,
                plan=parse_plan_text(PLAN),
                precision=precision,
                samples=2 * COLUMNS,
                condition=tuple(f"class={label}" for label in labels),
                guidance=GUIDANCE,
                output=PICTURES / f"samples-{precision}.png",
                columns=COLUMNS,
                scale=2,
            )
        )


def speed(found: Results) -> str:
    """Measure and return a description of the machine, and a line for each body and batch."""
    machine, (first, *_) = found.machine, found.races
    versions = ", ".join(f"{name} {version}" for name, version in sorted(machine.versions.items()))
    features = ", ".join(machine.int8_instructions)
    run_on = f"Machine: {machine.processor}, {first.threads} threads, {features}; {versions}."
    rows = [
        (
            found.bundle,
            str(race.batch),
            f"`{timing.name}`",
            f"{1000 * timing.median:.1f} ms",
            f"{timing.ratio:.2f}x ({timing.ratio_low:.2f} to {timing.ratio_high:.2f})",
        )
        for race in found.races
        for timing in race.timings
    ]
    head = ("model", "rows", "body", "median of a call", "times as fast (lowest, highest round)")
    return f"{textwrap.fill(run_on, WIDTH)}\n\n{table(head, rows)}"


def main() -> None:
    parser = options.parser_of(__doc__)
    parser.add_argument("bundle", type=Path, help="the bundle of `fewstep demo`")
    bundle = parser.parse_args().bundle
    with options.refusing(parser), TemporaryDirectory() as folder:
        made = speed(measure(MeasureOptions(bundle, ("ms",), Path(folder) / "measured.json")))
        draw(bundle)
        put_part(PAGE, SCRIPT, made)


if __name__ == "__main__":
    main()
