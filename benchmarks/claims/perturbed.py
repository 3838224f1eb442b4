"""What perturbed-attention guidance is worth without conditions: FD to the data, beside more plain steps.

    python -m benchmarks.claims.perturbed --model fashion_mnist --work FOLDER [--samples 256] [--steps 5]

A step with PAG evaluates two branches. Its control is a plain plan of twice the steps, which evaluates the network as
often; a second control takes as many steps as are as long. The scale is chosen by FD on the first half of the held-out
seeds and judged on the second. FD is in the features of the data's classifier, to the 10 000 test images.
"""

import json
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.on_zoo.zoo_distances import EXTRACTORS
from benchmarks.options import add_work, parser_of
from benchmarks.zoo.members import BY_NAME
from fewstep.evaluation.distances.distance import Gaussian, fit, frechet
from fewstep.evaluation.distances.features import Extractor, open_extractor
from fewstep.export.export import ExportOptions, export
from fewstep.models.fashion_mnist.data import read
from fewstep.plans.guidance import Guidance, Pag
from fewstep.runtime import Sampler, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.conditions import null

CHOOSE, JUDGE = 20_000, 60_000  # first seeds
SCALES = (0.25, 0.5, 1.0, 2.0)
BATCH, ROUNDS, TIMED = 32, 5, 8


def features(
    sampler: Sampler, extractor: Extractor, plan: str, guidance: Guidance | None, first: int, count: int
) -> Gaussian:
    """Of unconditional samples of seeds from `first` on."""
    parts = []
    for start in range(first, first + count, BATCH):
        seeds = range(start, min(start + BATCH, first + count))
        parts.append(extractor.extract(sampler.sample(plan, seeds, unconditional(sampler, len(seeds)), guidance)))
    return fit(np.concatenate(parts))


def unconditional(sampler: Sampler, count: int) -> dict[str, np.ndarray]:
    """The null value of each condition that has one."""
    takes = [each for each in sampler.bundle.manifest.conditions if each.null is not None]
    return {each.name: null(each, np.zeros((count, *each.shape), each.dtype), {}) for each in takes}


def ratio(sampler: Sampler, plan: str, guidance: Guidance, control: str) -> float:
    """Time of a guided plan over a plain one's, run in turns: the median of the rounds."""

    def seconds(name: str, form: Guidance | None) -> float:
        started = time.perf_counter()
        sampler.sample(name, range(TIMED), unconditional(sampler, TIMED), form)
        return time.perf_counter() - started

    return median(seconds(plan, guidance) / seconds(control, None) for _ in range(ROUNDS))


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--model", choices=sorted(EXTRACTORS), default="fashion_mnist")
    parser.add_argument("--perturb", default="middle", help="layers")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    add_work(parser, "perturbed")
    arguments = parser.parse_args()
    bundle: Path = arguments.work / f"{arguments.model}-{arguments.perturb}"
    if not (bundle / "manifest.json").exists():
        source = BY_NAME[arguments.model].source if arguments.model in BY_NAME else arguments.model
        export(ExportOptions(source, bundle, perturb=tuple(arguments.perturb.split(",")), verify="quick"))
    steps, pictures = arguments.steps, read(split="t10k")[0]
    with load(bundle, backend=OnnxRuntime(1)) as sampler:
        extractor = open_extractor(EXTRACTORS[arguments.model], sampler.bundle.manifest.x_shape, 1)
        assert extractor is not None
        data = fit(np.concatenate([extractor.extract(part[:, None] / 127.5 - 1) for part in np.split(pictures, 20)]))

        def distance(plan: str, guidance: Guidance | None, first: int, count: int) -> float:
            found = frechet(features(sampler, extractor, plan, guidance, first, count), data)
            print(f"{plan} {guidance} from {first}: FD {found:.2f}", file=sys.stderr, flush=True)
            return found

        short, long = f"dpmpp_2m:{steps}", f"dpmpp_2m:{2 * steps}"
        tried = {scale: distance(short, Pag(scale), CHOOSE, arguments.samples // 2) for scale in SCALES}
        scale = min(tried, key=tried.__getitem__)
        slower = ratio(sampler, short, Pag(scale), long)
        alike = f"dpmpp_2m:{max(round(2 * steps * slower), 1)}"
        judged = {
            f"pag:{scale:g}, {steps} steps": distance(short, Pag(scale), JUDGE, arguments.samples),
            f"plain, {2 * steps} steps, as many evaluations": distance(long, None, JUDGE, arguments.samples),
            f"plain, {alike}, as long": distance(alike, None, JUDGE, arguments.samples),
            f"plain, {steps} steps": distance(short, None, JUDGE, arguments.samples),
        }
    said = {"model": arguments.model, "layers": arguments.perturb, "tried": tried, "ratio": slower, "FD": judged}
    print(json.dumps(said, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
