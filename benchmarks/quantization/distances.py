"""FD of int8 samples next to the noise floor, of each denoiser whose data has an extractor.

    python -m benchmarks.quantization.distances [--model NAME ...] [--samples 256] [--steps 8 ...] [--work FOLDER]

Calibrates as `fewstep calibrate` does by default, and measures as `fewstep measure` does. FD of int8 samples to
float32 samples of other seeds stands next to FD of float32 samples of int8's seeds. Prints a table of Markdown. Each
line is kept in the work folder, and is measured again only where the bundle has changed.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from benchmarks import options
from benchmarks.markdown import table
from benchmarks.quantization.compare import ALL, calibrate_member
from benchmarks.result_store import load_or_compute
from benchmarks.zoo_bundles import held_out_rows
from fewstep.cli.progress import progress_display
from fewstep.measure.measure import measure
from fewstep.measure.options import MeasureOptions
from fewstep.measure.results import Distance
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.runtime.bundle.platforms import CPU_X86, body_name
from fewstep.runtime.progress import Progress
from zoo.members import Member

TEACHER = "dpmpp_2m:7"  # of one seed, since it decides nothing here; some tables have 15 timesteps
ROWS = 1_024  # of conditions that nothing draws
EXTRACTORS = {  # of the data that members are trained on, as their cards say
    "dit_flow": "fashion-mnist-cnn",
    "unet_epsilon_linear": "fashion-mnist-cnn",
    "convnext_v_cosine": "fashion-mnist-cnn",
    "nafnet_residual": "fashion-mnist-cnn",
    "fashion_mnist": "fashion-mnist-cnn",
    "unet_edm_cifar": "cifar10-cnn",
    "cifar10": "cifar10-cnn",
}
HEADER = ("denoiser", "steps", "samples", "FD of float32, the floor", "FD of int8", "difference", "95 % interval")


def measure_distances(member: Member, steps: int, arguments: argparse.Namespace, show: Progress) -> Distance:
    """FD of int8, and of float32, to float32 samples of other seeds."""
    bundle = calibrate_member(member, steps, [CPU_X86.name], arguments.work, show).bundle

    def find() -> Distance:
        own, file = held_out_rows(member, range(ROWS)), bundle.with_name(f"{bundle.name}-held-out.npz")
        if own is not None:
            np.savez(file, **own)  # type: ignore[arg-type]
        options = MeasureOptions(
            bundle,
            ("psnr", "fd"),
            output=bundle.with_name(f"{bundle.name}-measured.json"),
            body=(body_name("int8", CPU_X86.name),),
            seeds=1,
            samples=arguments.samples,
            features=EXTRACTORS[member.name],
            teacher=parse_plan_text(TEACHER),
            conditions=None if own is None else file,
        )
        (body,) = measure(options, show).qualities
        return body.distances[0]

    return load_or_compute(arguments.work, Distance, find, bundle.name, arguments.samples)


def line(name: str, steps: int, found: Distance) -> tuple[str, ...]:
    """A line of the table."""
    figures = (f"{found.frechet_float:.2f}", f"{found.frechet:.2f}", f"{found.difference:+.2f}")
    return (name, str(steps), str(found.samples), *figures, f"{found.low:+.2f} to {found.high:+.2f}")


def main(given: Sequence[str] | None = None) -> int:
    parser = options.parser_of(__doc__)
    options.add_denoisers(parser, EXTRACTORS)
    parser.add_argument("--samples", type=options.positive, default=256, help="samples in each set")
    options.add_work(parser, "quantization")
    arguments = parser.parse_args(given)
    with progress_display() as show:
        lines = [
            line(member.name, steps, measure_distances(member, steps, arguments, show))
            for member in ALL
            if member.name in EXTRACTORS and member.name in (arguments.model or EXTRACTORS)
            for steps in arguments.steps or (8,)
        ]
    print(table(HEADER, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
