"""How much faster is int8? Bodies of a bundle, each in its own process, taking turns.

    python benchmarks/speed.py BUNDLE [--batches 2,16] [--json]
    python benchmarks/speed.py --ddpm-cifar10 [--json]

The second form exports the DDPM CIFAR-10 architecture (35.7 M parameters, random weights), calibrates it on a few
trajectories, and times the result: the same path as any other model. Bars: 1.4x for fashion_mnist, 1.8x for this one.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from fewstep.calibration.calibrate import CalibrateOptions, calibrate
from fewstep.calibration.machine import this_machine
from fewstep.calibration.report.measure import race_bodies
from fewstep.calibration.speed import Race
from fewstep.export.export import ExportOptions, export
from fewstep.runtime.bundle import open_bundle
from fewstep.runtime.errors import UserError
from fewstep.runtime.sampler import load

SOURCE = Path(__file__).with_name("ddpm_cifar10.py")
BARS = {"fashion_mnist": 1.4, "ddpm_cifar10": 1.8}
FLOAT, INT8 = "float32", "int8-cpu-x86"


def make_ddpm_cifar10(folder: Path) -> Path:
    """A calibrated bundle of the architecture. Few trajectories: random weights have no quality to keep."""
    bundle = folder / "ddpm_cifar10"
    export(ExportOptions(f"{SOURCE}:make", bundle), _progress)
    calibrate(CalibrateOptions(bundle, plan="dpmpp_2m:4", target=("cpu-x86",), trajectories=4), _progress)
    return bundle


def time_bundle(path: Path, batches: Sequence[int], threads: int, rounds: int) -> list[Race]:
    """One race a batch size: float32 first, so that ratios are against it."""
    samplers = {name: load(path, body=name) for name in (FLOAT, INT8)}
    plan = samplers[FLOAT].compile(samplers[INT8].body.plan or CalibrateOptions.plan)
    return race_bodies(samplers, plan, batches, threads, rounds, progress=_progress)


def summary(name: str, races: Sequence[Race]) -> dict[str, Any]:
    """What --json prints."""
    lowest = min(timing.ratio for each in races for timing in each.timings if timing.name == INT8)
    return {
        "model": name,
        "machine": msgspec.to_builtins(this_machine()),
        "races": msgspec.to_builtins(races),
        "ratio": lowest,  # of the batch size where int8 wins least
        "bar": BARS.get(name),
    }


def _table(found: dict[str, Any]) -> None:
    machine = found["machine"]
    print(f"{found['model']} on {machine['processor']} ({', '.join(machine['int8_instructions'])})")
    for each in found["races"]:
        print(f"  batch {each['batch']}, {each['threads']} threads, {each['rounds']} rounds")
        for timing in each["timings"]:
            spread = f"[{timing['ratio_low']:.2f}, {timing['ratio_high']:.2f}]"
            print(f"    {timing['name']:16} {1000 * timing['median']:9.2f} ms   {timing['ratio']:.2f}x {spread}")
    bar = "" if found["bar"] is None else f" (bar: {found['bar']}x)"
    print(f"int8 is {found['ratio']:.2f}x float32{bar}")


def _progress(stage: str, done: int, total: int) -> None:
    print(f"\r{stage} {done}/{total}   ", end="", file=sys.stderr, flush=True)


def main() -> int:
    """0 if the model's bar is met or it has none, 1 if not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--ddpm-cifar10", action="store_true", help="make and time that architecture instead")
    parser.add_argument("--batches", default="2,16", help="rows of x in one run")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores this process may use")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if (arguments.bundle is None) != arguments.ddpm_cifar10:
        parser.error("give a BUNDLE or --ddpm-cifar10")
    batches = [int(text) for text in arguments.batches.split(",")]
    try:
        with TemporaryDirectory() as folder:
            path = make_ddpm_cifar10(Path(folder)) if arguments.ddpm_cifar10 else arguments.bundle
            races = time_bundle(path, batches, arguments.threads, arguments.rounds)
            found = summary(open_bundle(path).manifest.name, races)
    except UserError as error:
        parser.error(str(error))
    print(file=sys.stderr)
    if arguments.json:
        print(json.dumps(found))
    else:
        _table(found)
    return 0 if found["bar"] is None or found["ratio"] >= found["bar"] else 1


if __name__ == "__main__":
    sys.exit(main())
