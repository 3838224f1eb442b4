"""One edit at the bottleneck, at one step: pictures of one class become another, judged by a classifier.

    python -m benchmarks.claims.boundary --work FOLDER [--pair SOURCE TARGET ...]

BoundaryDiffusion (Zhu et al. 2023, arXiv 2302.08357; formulas of the authors' code): a picture is inverted by DDIM to a
mixing step. There the state x and the bottleneck h move along the unit normals of two hyperplanes, each of a linear SVM
between the classes, until their distance from it is wanted. DDIM with eta = 1 samples from there on. Their code goes on
with the bottleneck of the step before; here every later step has its own, as in the paper's single step.

The released code leaves the mixing step, and the distance, to its caller (t = 500). Here both are those whose edit
judges best on pictures of the training set, for each way of its own. The controls move x alone, h alone, and x and h as
far along random directions; and the network samples with the wanted class as its condition.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.options import add_work, parser_of
from benchmarks.steering.elucd import classifier
from fewstep.export.export import ExportOptions, export
from fewstep.models.fashion_mnist.data import read
from fewstep.models.fashion_mnist.unet import CLASSES, NULL_CLASS, load
from fewstep.plans.guidance import Branches
from fewstep.plans.transforms import tail
from fewstep.runtime import load as open_sampler
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.sampler import Sampler

Array = NDArray[np.float32]
STEPS = 10
MIXING = (2, 4, 6)  # steps from the noise that are tried
FAR = (1.0, 2.0, 4.0)  # distances that are tried, in distances between the means of the classes
FIT, CHOOSE, JUDGE = 100, 24, 64  # pictures of a class; the authors fit on 100
PAIRS = ((5, 7), (2, 4), (0, 3))  # sandal to sneaker, pullover to coat, T-shirt to dress
WAYS = {"x and h": (1, 1), "h alone": (0, 1), "x alone": (1, 0), "random x and h": (1, 1)}
EDIT = "edit"


def normal(rows: Array, signs: Array) -> Array:
    """The unit normal of a linear SVM (C = 1, hinge loss) between rows [N, D] of sign 1 and -1, by dual coordinate
    descent (Hsieh et al. 2008, algorithm 1). The hyperplane goes through the mean of all rows; the authors' also has an
    intercept."""
    rows = rows - rows.mean(0)
    squares, weights, normal = (rows**2).sum(1), np.zeros(len(rows)), np.zeros(rows.shape[1])
    random = np.random.default_rng(0)
    for _ in range(200):
        for row in random.permutation(len(rows)):
            slope = signs[row] * (rows[row] @ normal) - 1
            weight = np.clip(weights[row] - slope / squares[row], 0, 1)
            normal += (weight - weights[row]) * signs[row] * rows[row]
            weights[row] = weight
    return (normal / np.linalg.norm(normal)).astype(np.float32)


@dataclass(frozen=True)
class Boundary:
    """A space at one step: the normal of its boundary, and where both classes lie along it on average."""

    normal: Array
    source: float
    target: float
    held_out: float  # accuracy of the boundary on other pictures

    def move(self, values: Array, far: float, direction: Array | None = None) -> Array:
        """What is added to values [B, ...], along the normal or as far along another unit direction."""
        flat = values.reshape(len(values), -1)
        length = self.source + far * (self.target - self.source) - flat @ self.normal
        return (length[:, None] * (self.normal if direction is None else direction)).reshape(values.shape)


class Edits:
    """The edits of one pair of classes."""

    def __init__(self, sampler: Sampler, source: int, target: int) -> None:
        self.sampler, self.pair = sampler, (source, target)
        self.network, self.judge = load(), classifier().eval()
        (self.train, labels), (self.test, others) = read(split="train"), read(split="t10k")
        self.places = {each: np.flatnonzero(labels == each) for each in self.pair}
        self.test_places = np.flatnonzero(others == source)

    def pictures(self, label: int, first: int, count: int) -> Array:
        return self.train[self.places[label][first : first + count]][:, None] / np.float32(127.5) - 1

    @cached_property
    def judged_pictures(self) -> Array:
        return self.test[self.test_places[:JUDGE]][:, None] / np.float32(127.5) - 1

    def label(self, count: int, label: int = NULL_CLASS) -> dict[str, NDArray[np.int64]]:
        return {"class": np.full(count, label)}

    def inverted(self, pictures: Array) -> dict[int, Array]:
        """The states before each mixing step, by DDIM run backwards."""
        states = self.sampler.steps(
            f"ddim_inverse:{STEPS}", range(len(pictures)), self.label(len(pictures)), given={"x": pictures}
        )
        after = [state.after[0] for state in states]
        return {step: after[STEPS - 1 - step] for step in MIXING}

    @torch.no_grad()
    def bottleneck(self, step: int, states: Array) -> Array:
        """What the network computes there at a step."""
        kept: list[torch.Tensor] = []
        handle = self.network.middle.register_forward_hook(lambda module, inputs, output: kept.append(output))
        time = self.sampler.compile(f"ddim:{STEPS}").steps[step].time
        self.network(torch.from_numpy(states), torch.full((len(states),), time), torch.full((len(states),), NULL_CLASS))
        handle.remove()
        return kept[0].numpy()

    def sides(self) -> dict[int, tuple[Boundary, Boundary]]:
        """The boundaries of x and h at each mixing step."""
        held = [self.inverted(self.pictures(label, 0, FIT + CHOOSE)) for label in self.pair]
        result = {}
        for step in MIXING:
            both = []
            for values in ([each[step] for each in held], [self.bottleneck(step, each[step]) for each in held]):
                flat = [each.reshape(len(each), -1) for each in values]
                rows = np.concatenate([each[:FIT] for each in flat])
                unit = normal(rows, np.repeat([-1.0, 1.0], FIT))
                source, target = (float((each[:FIT] @ unit).mean()) for each in flat)
                middle = (source + target) / 2
                right = [(flat[0][FIT:] @ unit < middle).mean(), (flat[1][FIT:] @ unit > middle).mean()]
                both.append(Boundary(unit, source, target, float(np.mean(right))))
            result[step] = (both[0], both[1])
        return result

    def edited(self, states: Array, step: int, added: Array | None, label: int = NULL_CLASS) -> Array:
        """Samples from the states before a step, with this added to the bottleneck at it."""
        count, name = len(states), f"ddim(eta=1):{STEPS}"
        if added is None:
            return self._from(self.sampler.compile(name), step, states, self.label(count, label), {})
        only = [float(each == step) for each in range(STEPS)]
        form = Branches({"cond": tuple(1 - each for each in only), EDIT: tuple(only)})
        return self._from(self.sampler.compile(name, form), step, states, self.label(count), {EDIT: {EDIT: added}})

    def _from(self, plan, step: int, states: Array, condition: Mapping, branches: Mapping) -> Array:  # type: ignore
        rest, seeds = tail(plan, step), range(len(states))
        return self.sampler.sample(rest, seeds, condition, given={"row0": states}, branches=branches or None)

    @torch.no_grad()
    def score(self, samples: Array, pictures: Array) -> tuple[float, float, float]:
        """Share judged to be of the wanted class, of the source's, and PSNR to the pictures in dB."""
        guesses = self.judge(torch.from_numpy(samples.clip(-1, 1)))[1].argmax(1).numpy()
        error = ((samples.clip(-1, 1) - pictures) ** 2).mean((1, 2, 3))
        share = [float((guesses == label).mean()) for label in (self.pair[1], self.pair[0])]
        return share[0], share[1], float((10 * np.log10(4 / error)).mean())


def way(edits: Edits, name: str, sides: tuple[Boundary, Boundary], states: Array, step: int, far: float) -> Array:
    """Samples edited in one of the ways of WAYS."""
    random = np.random.default_rng(1)
    values = states, edits.bottleneck(step, states)
    moved = []
    for side, value, share in zip(sides, values, WAYS[name], strict=True):
        direction = None
        if name.startswith("random"):
            drawn = random.standard_normal(side.normal.shape).astype(np.float32)
            direction = drawn / np.linalg.norm(drawn)
        moved.append(share * side.move(value, far, direction))
    return edits.edited(states + moved[0], step, moved[1])


def rows(edits: Edits) -> dict[str, object]:
    """Of a pair: what each way was chosen to be, and how it is judged."""
    sides, own = edits.sides(), edits.pictures(edits.pair[0], FIT, CHOOSE)
    states, judged = edits.inverted(own), edits.inverted(edits.judged_pictures)
    said: dict[str, object] = {
        "boundary, held out, x and h": {step: [side.held_out for side in each] for step, each in sides.items()}
    }
    for name in WAYS:
        tried = {
            (step, far): edits.score(way(edits, name, sides[step], states[step], step, far), own)[0]
            for step, far in product(MIXING, FAR)
        }
        step, far = max(tried, key=tried.__getitem__)
        samples = way(edits, name, sides[step], judged[step], step, far)
        said[name] = [step, far, tried[step, far], *edits.score(samples, edits.judged_pictures)]
        print(edits.pair, name, said[name], file=sys.stderr, flush=True)
    step = said["x and h"][0]  # type: ignore[index]
    for name, label in (("no edit", NULL_CLASS), ("the class as condition", edits.pair[1])):
        samples = edits.edited(judged[step], step, None, label)
        said[name] = [step, *edits.score(samples, edits.judged_pictures)]
        print(edits.pair, name, said[name], file=sys.stderr, flush=True)
    return said


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--pair", nargs=2, type=int, action="append", metavar=("SOURCE", "TARGET"))
    add_work(parser, "boundary")
    arguments = parser.parse_args()
    bundle = arguments.work / "fashion_mnist-bottleneck"
    if not (bundle / "manifest.json").exists():
        export(ExportOptions("fashion_mnist", bundle, bottleneck=EDIT, verify="quick"))
    with open_sampler(bundle, backend=OnnxRuntime(1)) as sampler:
        pairs = map(tuple, arguments.pair or PAIRS)
        said = {f"{CLASSES[a]} to {CLASSES[b]}": rows(Edits(sampler, a, b)) for a, b in pairs}
    print(json.dumps(said, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
