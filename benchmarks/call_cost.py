"""The time of a call outside its graphs: fewstep's own Python, with graphs that return at once.

    python -m benchmarks.call_cost BUNDLE [--steps 1,2,4,8,16] [--samples 1] [--guidance 1] [--calls 400]

A call has new conditions and a new seed, as a policy's has, and the plan is compiled before. A line has the median and
the 99th percentile for each number of steps; the last line has the cost of a call and of a step, by least squares over
the medians. The processor's speed moves all of them: compare two versions in turns, on one machine.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.options import parser_of, positive, several
from fewstep.measure.rollouts.seeds import draw_conditions
from fewstep.plans.plan import DENOISER
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.kinds.sizes import default_sizes, resolve_dimension
from fewstep.runtime.sampling.denoiser import DenoiserNetworks
from fewstep.runtime.sampling.network import Network
from fewstep.runtime.sampling.sampler import Sampler

SOLVER = "dpmpp_2m"
CONDITIONS = 16  # distinct ones, in turn


def instant_graph(entry: GraphEntry, sizes: dict[str, int]) -> LoadedGraph:
    """A graph that returns zeros of its outputs' shapes at once."""
    batched = next(port.name for port in entry.inputs if port.shape[:1] == ("batch",))
    made: dict[int, dict[str, NDArray[Any]]] = {}

    def call(feeds: Arrays) -> dict[str, NDArray[Any]]:
        count = len(feeds[batched])
        if count not in made:
            known = {**sizes, "batch": count}
            shapes = {port.name: [resolve_dimension(size, known) for size in port.shape] for port in entry.outputs}
            made[count] = {port.name: np.zeros(shapes[port.name], port.dtype) for port in entry.outputs}
        return made[count]

    return call


def instant_sampler(path: Path, body: str) -> Sampler:
    """A sampler of a bundle with one network, whose graphs return at once."""
    bundle = open_bundle(path)
    manifest = bundle.manifest
    sizes = default_sizes(manifest.x_shape, manifest.sizes)
    ahead = (None if each is None else instant_graph(each, sizes) for each in (manifest.prologue, manifest.conditioner))
    graphs = [instant_graph(graph, sizes) for graph in bundle.body(body).graphs]
    network = Network(bundle, bundle.body(body), graphs[-1], next(ahead), tuple(graphs[:-1]), {}, next(ahead))
    return Sampler(DenoiserNetworks({DENOISER: network}))


def calls(sampler: Sampler, steps: int, samples: int, guidance: float) -> Iterator[Callable[[], object]]:
    """Yield calls along one plan, each with other seeds and conditions, endlessly."""
    plan = sampler.compile(f"{SOLVER}:{steps}", guidance)
    drawn = [
        draw_conditions(sampler.bundle.manifest, range(place * samples, (place + 1) * samples))
        for place in range(CONDITIONS)
    ]
    for number, conditions in enumerate(cycle(drawn)):
        seeds = range(number * samples, (number + 1) * samples)
        yield partial(sampler.sample, plan, seeds, conditions)


def times_of(sampler: Sampler, steps: int, samples: int, guidance: float, count: int) -> NDArray[np.float64]:
    """Return the microseconds of `count` calls, after some that are not counted."""
    taken = []
    for number, call in enumerate(calls(sampler, steps, samples, guidance)):
        began = perf_counter()
        call()
        taken.append(1e6 * (perf_counter() - began))
        if number == count + count // 10:
            return np.array(taken[-count:])
    raise AssertionError("calls end")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--body", default="float32")
    parser.add_argument(
        "--steps", type=several, default=(1, 2, 4, 8, 16), help="steps of the plans, separated by commas"
    )
    parser.add_argument("--samples", type=positive, default=1, help="samples per call")
    parser.add_argument("--guidance", type=float, default=1.0, help="guidance weight; above 1, a step has two branches")
    parser.add_argument("--calls", type=positive, default=400, help="calls for each number of steps")
    given = parser.parse_args()
    sampler, medians = instant_sampler(given.bundle, given.body), []
    for steps in given.steps:
        taken = times_of(sampler, steps, given.samples, given.guidance, given.calls)
        medians.append(float(np.median(taken)))
        print(f"{steps:3} steps: {medians[-1]:7.1f} us, 99th percentile {np.percentile(taken, 99):7.1f} us", flush=True)
    if len(set(given.steps)) > 1:
        each, whole = np.polyfit(given.steps, medians, 1)
        print(f"a call {whole:.0f} us, a step {each:.1f} us")


if __name__ == "__main__":
    main()
