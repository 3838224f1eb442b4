"""Steps of a diffusion head that fall over the outer iterations, beside as many for all: `python
benchmarks/autoregression/measure.py DIR`, where `make.py` has made the bundle.

FD(fashion-mnist-cnn) of pictures to the 10 000 test pictures, in sets of seeds that all contenders share. Times are of
a picture alone on one thread. Each set is kept as JSON, and an interrupted run goes on.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import make
import numpy as np
import torch
from codebooks import pictures
from masked_autoregression import WIDTH
from numpy.typing import NDArray
from outer_loop import annealed, generate, open_backbone

from fewstep.measure.distances import distance
from fewstep.measure.distances.features import Extractor, open_extractor
from fewstep.models.fashion_mnist import data
from fewstep.plans.shaping import Clip
from fewstep.runtime import Sampler, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

sys.path.append(str(Path(__file__).parents[2]))  # of `benchmarks`
from benchmarks.claims.settings import reference
from benchmarks.markdown import table

EXTRACTOR = "fashion-mnist-cnn"
ITERATIONS, GUIDANCE = 12, 2.0
SETS, SAMPLES = 3, 64
TIMED = 5  # pictures, one after the other
BODIES = {"float32": "float32", "int8": "int8-cpu-x86"}
LAST = 950  # DiSA's code begins no later than here


def even(total: int) -> list[int]:
    """As equal numbers of steps as their sum allows, the larger ones first."""
    least, more = divmod(total, ITERATIONS)
    return [least + (i < more) for i in range(ITERATIONS)]


FALLING = annealed(ITERATIONS)
BOTH = ("float32", "int8")
CONTENDERS: dict[str, tuple[str, list[int], tuple[str, ...]]] = {
    "50 throughout": ("ddpm", [50] * ITERATIONS, ("float32",)),
    "50 to 5 (DiSA)": ("ddpm", FALLING, BOTH),
    "as many calls, equal": ("ddpm", even(sum(FALLING)), BOTH),
    "5 to 50": ("ddpm", FALLING[::-1], ("float32",)),
    "12 throughout": ("ddpm", [12] * ITERATIONS, ("float32",)),
    "`dpmpp_2m`, 8 throughout": ("dpmpp_2m", [8] * ITERATIONS, BOTH),
}


def ddpm_times(steps: int) -> list[int]:
    """Even timesteps, none of them noisier than 950: DiSA's code moves those there, so that few of 50 steps are one."""
    return sorted({min(round(i * 999 / (steps - 1)), LAST) for i in range(steps)}, reverse=True)


def calls(name: str) -> int:
    """Evaluations of the head for a picture, each with two branches."""
    solver, steps, _ = CONTENDERS[name]
    return sum(len(ddpm_times(each)) if solver == "ddpm" else each for each in steps)


def plan(sampler: Sampler, solver: str, steps: int) -> Any:
    """DDPM at `ddpm_times`; another solver as fewstep has it, with predictions clipped to the pixels' range. Both are
    guided to the class."""
    no_class = {"uncond": {"z": np.zeros((1, WIDTH), np.float32)}}  # stands for z of each iteration
    if solver != "ddpm":
        return sampler.compile(f"{solver}:{steps}", GUIDANCE, shaping=Clip(-1, 1), branches=no_class)
    times = ddpm_times(steps)
    return sampler.compile(f"ddpm:{len(times)}@custom(times={times})", GUIDANCE, branches=no_class)


def plans(sampler: Sampler, name: str) -> list[Any]:
    """The plan of each outer iteration."""
    solver, steps, _ = CONTENDERS[name]
    return [plan(sampler, solver, count) for count in steps]


def to_test_pictures(judge: Extractor, images: NDArray[np.float32]) -> float:
    """FD to the test pictures, by the features of `judge`."""
    return distance.frechet(distance.fit(judge.extract(images)), reference(judge))


def opened(work: Path) -> dict[str, Sampler]:
    """The samplers of the bodies, on one thread."""
    engine = OnnxRuntime(threads=1)
    return {body: load(work / make.HEAD, body=name, backend=engine) for body, name in BODIES.items()}


def _in_work(work: Path, name: str, compute: Callable[[], Any]) -> Any:
    """What a file of the work folder holds, or what is computed and then kept there."""
    file = work / f"{name}.json"
    if not file.exists():
        file.write_text(json.dumps(compute()))
    return json.loads(file.read_text())


def distances(work: Path, sets: int = SETS) -> dict[str, list[float]]:
    """FD of each set, by contender and body."""
    judge, backbone, samplers = (
        open_extractor(EXTRACTOR, (1, 28, 28), 1),
        open_backbone(work / make.BACKBONE),
        opened(work),
    )
    assert judge is not None
    rows: dict[str, list[float]] = {}
    for number in range(sets):
        for name, (_, _, bodies) in CONTENDERS.items():
            for body in bodies:
                sampler = samplers[body]

                def far(sampler: Sampler = sampler, name: str = name, number: int = number) -> float:
                    own, first = plans(sampler, name), number * SAMPLES
                    seeds = range(first, first + SAMPLES)
                    x = generate(sampler, backbone, own, [seed % 10 for seed in seeds], seeds)
                    return to_test_pictures(judge, pictures(torch.from_numpy(x)).numpy())

                key = f"{name}, {body}"
                value = _in_work(work, f"{number}-{list(CONTENDERS).index(name)}-{body}", far)
                rows.setdefault(key, []).append(value)
                print(f"{number}  {key:36} {value:.1f}", flush=True)
    training = data.read()[0][: sets * SAMPLES, None].astype(np.float32) / 127.5 - 1
    rows["training pictures"] = [to_test_pictures(judge, part) for part in np.split(training, sets)]
    return rows


def times(work: Path) -> dict[str, list[float]]:
    """Milliseconds of a processor for each of TIMED pictures alone, contenders in turns."""
    backbone, rows, samplers = open_backbone(work / make.BACKBONE), dict[str, list[float]](), opened(work)
    own = {
        f"{name}, {body}": (samplers[body], plans(samplers[body], name))
        for name, (_, _, bodies) in CONTENDERS.items()
        for body in bodies
    }
    for seed in range(TIMED + 1):
        for key, (sampler, each) in own.items():
            start = process_time()
            generate(sampler, backbone, each, [seed % 10], [seed])
            rows.setdefault(key, []).append(1e3 * (process_time() - start))
    return {key: values[1:] for key, values in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--sets", type=int, default=SETS)
    given = parser.parse_args()
    make.main(given.work)
    ms = _in_work(given.work, "times", lambda: times(given.work))
    far = distances(given.work, given.sets)
    base = np.array(far["50 throughout, float32"])
    lines = []
    for key, values in far.items():
        name, _, body = key.rpartition(", ")
        apart = np.array(values) - base
        error = apart.std(ddof=1) / len(apart) ** 0.5 if len(apart) > 1 else float("nan")
        cost = f"{np.median(ms[key]):.0f}" if key in ms else ""
        called = (name, body, str(calls(name))) if name else (key, "", "")
        lines.append((*called, f"{np.mean(values):.1f}", f"{apart.mean():+.1f} ± {error:.1f}", cost))
    print(table(("steps of the head", "body", "calls", "FD", "to 50 throughout", "ms"), lines))


if __name__ == "__main__":
    main()
