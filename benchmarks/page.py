"""Run every benchmark on a bundle and write docs/measured.md and its pictures: no figure there is typed in by hand.

    fewstep demo && python benchmarks/page.py fewstep-demo/bundle

int8 of other tools is compared where --python says what has them (quantization/README.md). Takes half an hour; the
machine should do nothing else.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewstep.cli.run import RunOptions, run
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
COLUMNS = 10


def benchmark(script: str, *arguments: str) -> dict[str, Any]:
    """What a benchmark prints with --json. One that misses its bar returns 1 and is shown all the same."""
    process = subprocess.run(
        [sys.executable, str(HERE / script), *arguments, "--json"], stdout=subprocess.PIPE, text=True
    )
    if process.returncode not in (0, 1):
        raise SystemExit(process.returncode)
    found: dict[str, Any] = json.loads(process.stdout)
    return found


def draw(bundle: Path, plan: str, guidance: float | None) -> None:
    """Two rows of samples in float32 and in int8, same seeds, one class a column."""
    labels = open_bundle(bundle).manifest.conditions[0].labels
    for precision in ("float32", "int8"):
        run(
            RunOptions(
                bundle,
                plan=plan,
                precision=precision,
                samples=2 * COLUMNS,
                condition=tuple(f"class={label}" for label in labels),
                guidance=guidance,
                output=DOCS / f"samples-{precision}.png",
                columns=COLUMNS,
                scale=2,
            )
        )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def quality(found: dict[str, Any]) -> str:
    rows = [(row["engine"], row["name"], *figures(row)) for row in found["rows"]]
    return table(("engine", "quantized by", "mean dB", "5th percentile", "worst", "MACs in int8"), rows)


def figures(row: dict[str, Any]) -> tuple[str, ...]:
    """A contender's PSNR and coverage in words, or why there is none."""
    end = row["quality"]
    if end is None:
        return (f"failed: {row['reason']}", "", "", "")
    coverage = f"{100 * end['int8_macs'] / end['total_macs']:.1f} %"
    return (*(f"{end[part]:.1f}" for part in ("mean", "p5", "worst")), coverage)


def speed(found: dict[str, Any]) -> str:
    rows = [
        (
            found["model"],
            str(race["batch"]),
            f"`{timing['name']}`",
            f"{1000 * timing['median']:.1f} ms",
            f"{timing['ratio']:.2f}x ({timing['ratio_low']:.2f} to {timing['ratio_high']:.2f})",
        )
        for race in found["races"]
        for timing in race["timings"]
    ]
    return table(("model", "rows", "body", "median of a call", "times as fast (lowest, highest round)"), rows)


def page(bundle: Path, pythons: Sequence[str], work: Path | None) -> str:
    others = [argument for python in pythons for argument in ("--python", python)]
    kept = [] if work is None else ["--work", str(work)]
    (beside,) = benchmark("quantization/compare.py", str(bundle), "--no-speed", *kept, *others)["outcomes"]
    speeds = [benchmark("speed.py", str(bundle)), benchmark("speed.py", "--arch", "ddpm-cifar10")]
    draw(bundle, beside["plan"], beside["guidance"])
    machine = speeds[0]["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(machine["versions"].items()))
    return f"""# Measured

Written by `fewstep demo && python benchmarks/page.py fewstep-demo/bundle`. Each script named below prints its own part.
What the words mean is in [quantization.md](quantization.md).

Machine: {machine["processor"]}, {speeds[0]["races"][0]["threads"]} threads, {", ".join(machine["int8_instructions"])};
{versions}.

## What int8 costs

`{beside["model"]}`, plan `{beside["plan"]}`, guidance {beside["guidance"]:g}: PSNR against float32 along the same
plan, {beside["seeds"]} held-out seeds, ranges from {beside["trajectories"]} trajectories, the same for everyone
(`benchmarks/quantization/compare.py`; its README says what the settings are). MACs: multiply-accumulates.

{quality(beside)}

float32, then int8, same seeds:

![float32](samples-float32.png)

![int8](samples-int8.png)

## What int8 wins

One call of the body in onnxruntime, each contender in its own process, taking turns (`benchmarks/speed.py`).
`ddpm_cifar10` is the architecture of 35.7 M parameters with random weights.

{speed(speeds[0])}

{speed(speeds[1])}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path, help="that `fewstep demo` made")
    parser.add_argument("--python", action="append", default=[], metavar="TOOL=PATH", help="as compare.py has it")
    parser.add_argument("--work", type=Path, help="what compare.py keeps; by default its own folder")
    arguments = parser.parse_args()
    try:
        text = page(arguments.bundle, arguments.python, arguments.work)
    except UserError as error:
        parser.error(str(error))
    (DOCS / "measured.md").write_text(text)


if __name__ == "__main__":
    main()
