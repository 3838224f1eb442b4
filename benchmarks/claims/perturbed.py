"""What perturbed-attention guidance is worth: FD to the data, beside more steps without it.

    python -m benchmarks.claims.perturbed --model fashion_mnist --work FOLDER [--samples 256] [--steps 5] [--labels]

A step with PAG evaluates two branches. Its control is a plain plan of twice the steps, which evaluates the network as
often; a second control takes as many steps as are as long. With --labels each sample has a class, and PAG stands beside
classifier-free guidance, in three branches. Its control is then the better of guidance alone at half as many steps
again, and of the plain network at three times the steps.

Scales and weights of both are chosen by FD on the first half of the held-out seeds, and judged on the second. FD is in
the features of the data's classifier, to the 10 000 test images.
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
from fewstep.plans.guidance import Cfg, Guidance, Pag
from fewstep.runtime import Sampler, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.conditions import null

CHOOSE, JUDGE = 20_000, 60_000  # first seeds
SCALES = (0.25, 0.5, 1.0, 2.0)
BESIDE, WEIGHTS = (0.25, 0.5, 1.0), (1.5,)  # scales beside guidance of these weights
CLASSES = 10
BATCH, ROUNDS, TIMED = 32, 5, 8


Way = tuple[str, Guidance | None]  # a plan, and its guidance


def features(sampler: Sampler, extractor: Extractor, way: Way, seeds: range, labels: bool) -> Gaussian:
    """Of samples of these seeds."""
    parts = []
    for start in range(0, len(seeds), BATCH):
        part = seeds[start : start + BATCH]
        parts.append(extractor.extract(sampler.sample(way[0], part, conditions(sampler, part, labels), way[1])))
    return fit(np.concatenate(parts))


def conditions(sampler: Sampler, seeds: range, labels: bool) -> dict[str, np.ndarray]:
    """A class for each seed, or none."""
    return {"class": np.array(seeds) % CLASSES} if labels else unconditional(sampler, len(seeds))


def unconditional(sampler: Sampler, count: int) -> dict[str, np.ndarray]:
    """The null value of each condition that has one."""
    takes = [each for each in sampler.bundle.manifest.conditions if each.null is not None]
    return {each.name: null(each, np.zeros((count, *each.shape), each.dtype), {}) for each in takes}


def ratio(sampler: Sampler, way: Way, control: Way, labels: bool) -> float:
    """Time of a way over a control's, run in turns: the median of the rounds."""

    def seconds(plan: str, form: Guidance | None) -> float:
        started = time.perf_counter()
        sampler.sample(plan, range(TIMED), conditions(sampler, range(TIMED), labels), form)
        return time.perf_counter() - started

    return median(seconds(*way) / seconds(*control) for _ in range(ROUNDS))


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--model", choices=sorted(EXTRACTORS), default="fashion_mnist")
    parser.add_argument("--perturb", default="middle", help="layers")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--labels", action="store_true", help="a class for each sample, and guidance by it")
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

        def distance(way: Way, seeds: range) -> float:
            found = frechet(features(sampler, extractor, way, seeds, arguments.labels), data)
            print(f"{way} from {seeds[0]}: FD {found:.2f}", file=sys.stderr, flush=True)
            return found

        short, samples = f"dpmpp_2m:{steps}", arguments.samples
        ways: list[Way] = [(short, Pag(scale)) for scale in SCALES]
        controls: list[Way] = [(f"dpmpp_2m:{2 * steps}", None)]
        if arguments.labels:
            ways = [(short, Pag(scale, weight)) for scale in BESIDE for weight in WEIGHTS]
            controls = [(f"dpmpp_2m:{3 * steps // 2}", Cfg(weight)) for weight in WEIGHTS]
            controls.append((f"dpmpp_2m:{3 * steps}", None))
        tried = {way: distance(way, range(CHOOSE, CHOOSE + samples // 2)) for way in (*ways, *controls)}
        best, control = (min(each, key=tried.__getitem__) for each in (ways, controls))
        slower = ratio(sampler, best, control, arguments.labels)
        as_long = f"dpmpp_2m:{max(round(int(control[0].split(':')[1]) * slower), 1)}", control[1]
        judged = {
            f"{name}: {way}": distance(way, range(JUDGE, JUDGE + samples))
            for name, way in {
                "PAG": best,
                "as many evaluations": control,
                "as long": as_long,
                "as many steps": (short, control[1]),
            }.items()
        }
    said = {
        "model": arguments.model,
        "layers": arguments.perturb,
        "tried": {str(way): each for way, each in tried.items()},
        "ratio": slower,
        "FD": judged,
    }
    print(json.dumps(said, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
