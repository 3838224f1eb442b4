"""Compare the speed of DDPM's network on CIFAR-10 on this CPU: onnxruntime, OpenVINO, and diffusers in torch.

    python -m lab.races.ddpm [--threads 1] [--batches 1,8] [--rounds 15] [--bundle KEPT]

The network is diffusers' UNet2DModel with the layers of `google/ddpm-cifar10-32`. Its weights are random, since the
time only depends on shapes. The bundle is exported, and calibrated on a few trajectories for cpu-x86, openvino and
openvino-bf16. `--bundle` stores it in a folder, and uses that the next time. A row has the median milliseconds of a
call, in wall time and in CPU time, then the speeds relative to float32 on onnxruntime and to diffusers. The best body
should reach 2.8 and 6. The last lines have the fraction of a run that is not spent in the network, which should be at
most 1 %. Needs torch and diffusers, and fewstep[export,calibration,openvino].
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from benchmarks.large.networks import NETWORKS
from benchmarks.large.pipeline import write_pipeline
from benchmarks.options import add_turns, parser_of, refusing, several
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.measure.open_body import open_body
from fewstep.measure.rollouts.plan_selection import select_plan
from fewstep.measure.speed.mean_step import middle_feeds
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.plans.plan import DENOISER
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.bundle.platforms import target_of
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from lab.races.take_turns import Call, Opener, Times, in_turns

PLAN = "dpmpp_2m:4"
BODIES = {
    "onnxruntime": ("float32", "int8-cpu-x86"),
    "openvino": ("float32", "int8-openvino"),
    "openvino-bf16": ("float32", "int8-openvino-bf16"),
}
FIRST = "float32, onnxruntime"
DIFFUSERS = "float32, diffusers in torch"
NETWORK = NETWORKS["ddpm"]


def make_bundle(folder: Path) -> Path:
    """Return the bundle in a folder, which is made there if it does not exist."""
    if not folder.exists():
        with TemporaryDirectory() as source:
            write_pipeline(Path(source), NETWORK)
            export(ExportOptions(source, folder))
    there, wanted = open_bundle(folder).manifest.bodies, {body for bodies in BODIES.values() for body in bodies}
    targets = tuple(sorted(target_of(body) for body in wanted - {"float32", *there}))
    if targets:
        calibrate(CalibrateOptions(folder, PLAN, targets, trajectories=4))
    return folder


def on_backend(bundle: Path, backend: str, body: str, threads: int, batch: int) -> Call:
    """Return one call of a body as it is deployed, with inputs from the middle of its plan."""
    opened = open_bundle(bundle)
    with open_body(opened, "int8-cpu-x86", threads) as sampler:
        plan = select_plan(sampler.plans, opened.body("int8-cpu-x86"), parse_plan_text(PLAN))
        given = middle_feeds(sampler, plan, batch)[DENOISER]
    network = create_backend(backend, threads).load(opened, body)
    fed = {value.name: given[value.name] for value in opened.body(body).graph.inputs}
    return lambda: network(fed)


def in_diffusers(threads: int, batch: int) -> Call:
    """Return one call of diffusers' model in eager mode."""
    import torch

    torch.set_num_threads(threads)
    model = NETWORK.make(NETWORK.width, NETWORK.latent).eval()
    x, time = torch.randn(batch, 3, 32, 32), torch.full((batch,), 500)

    def call() -> object:
        with torch.inference_mode():
            return model(x, time).sample

    return call


def contenders(bundle: Path, threads: int, batch: int) -> dict[str, Opener]:
    ours: dict[str, Opener] = {
        f"{body}, {backend}": partial(on_backend, bundle, backend, body, threads, batch)
        for backend, bodies in BODIES.items()
        for body in bodies
    }
    return ours | {DIFFUSERS: partial(in_diffusers, threads, batch)}


@dataclass
class Timed:
    """A network that sums up the seconds of its calls."""

    network: LoadedGraph
    seconds: float = 0.0

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        began = perf_counter()
        try:
            return self.network(feeds)
        finally:
            self.seconds += perf_counter() - began


def rows(found: Mapping[str, Times], batch: int) -> Iterator[str]:
    first, peer = found[FIRST], found[DIFFUSERS]
    yield "| contender | samples | ms | ms of processor | x float32 | by processor | x diffusers | by processor |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, times in found.items():
        milliseconds = (1e3 * median(times.wall), 1e3 * median(times.processor))
        cells = [f"{value:.1f}" for value in milliseconds]
        cells += [f"{value:.2f}" for value in (*times.against(first), *times.against(peer))]
        yield f"| {name} | {batch} | {' | '.join(cells)} |"


def host_share(bundle: Path, backend: str, body: str, threads: int, batch: int, runs: int) -> float:
    """Return the median fraction of a run's wall time that is spent outside the network and its prologue."""
    shares = []
    with load(bundle, body=body, backend=create_backend(backend, threads)) as opened:
        assert opened.prologue is not None  # the graph of the time
        network, prologue = Timed(opened.network().graph), Timed(opened.network().prologue)
        sampler = opened.with_network_parts(graph=network, prologue=prologue)
        plan = sampler.compile(PLAN)
        for first in range(runs + 1):
            network.seconds, prologue.seconds, began = 0.0, 0.0, perf_counter()
            sampler.sample(plan, range(first, first + batch))
            shares.append(1 - (network.seconds + prologue.seconds) / (perf_counter() - began))
    return median(shares[1:])


def main(given: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--batches", type=several, default="1,8")
    add_turns(parser, threads=1, rounds=15, seconds=1.0)
    parser.add_argument("--bundle", type=Path, help="folder to keep the bundle in")
    options = parser.parse_args(given)
    with refusing(parser), TemporaryDirectory() as folder:
        bundle = make_bundle(options.bundle or Path(folder) / "bundle")
        for batch in options.batches:
            found = in_turns(contenders(bundle, options.threads, batch), options.rounds, options.turn_seconds)
            print("\n".join(rows(found, batch)), end="\n\n", flush=True)
            for backend, bodies in BODIES.items():
                share = host_share(bundle, backend, bodies[-1], options.threads, batch, options.rounds)
                print(f"{bodies[-1]}, {backend}, {batch} samples: {100 * share:.2f} % of a run is not the network")


if __name__ == "__main__":
    from lab.races import ddpm  # the processes of contenders import the functions by this name

    ddpm.main()
