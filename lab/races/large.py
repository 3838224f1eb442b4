"""Compare the speed of a large denoiser on this CPU: ours, OpenVINO, NNCF, and torch.

    python -m lab.races.large [--network sd15|dit-half] [--threads 2] [--rounds 3] [--turn-seconds 8]
        [--target cpu-x86,openvino,openvino-bf16] [--nncf PYTHON] [--only NAME] [--prepare] [--work FOLDER]

The network has random weights (benchmarks/large/networks.py), and one row. It is exported, and calibrated along one
trajectory of one step, which changes no time. NNCF runs with the Python of `--nncf`, whose packages are openvino and
those of benchmarks/quantization/requirements-nncf.txt. `--work` keeps bundle, feeds and NNCF's graphs, and a later call
uses them, without `--nncf` too. In each round every contender opens in a new process, alone, and calls the network for
a turn. A row has the milliseconds of a call, which are the median of a turn and the least of all turns, as other
programs disturb some. Then come the speed relative to int8-cpu-x86, or to the first row without it, the peak memory,
the size of its files, and the seconds from the start of loading to the end of the fourth call, with files in the cache
of the system. The product of two matrices in numpy is timed before and after each round: it shows whether other
programs used the processor.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from benchmarks.large.networks import NETWORKS
from benchmarks.large.pipeline import write_pipeline
from benchmarks.large.verb_costs import Chain, run, work_folder, write_conditions
from benchmarks.options import add_only, add_turns, add_work, parser_of, refusing
from fewstep.measure.open_body import open_body
from fewstep.measure.rollouts.conditions_file import read_conditions
from fewstep.measure.rollouts.plan_selection import select_plan
from fewstep.measure.speed.contender_process import Call
from fewstep.measure.speed.mean_step import middle_feeds
from fewstep.measure.speed.timed_process import TimedProcess
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.plans.plan import DENOISER
from fewstep.runtime.bundle.platforms import body_name
from fewstep.runtime.bundle.reading import open_bundle
from lab.races.large_contenders import Way, all_ways

PLAN = "ddim:1"
TARGETS = "cpu-x86,openvino,openvino-bf16"
FIRST = "fewstep int8-cpu-x86, onnxruntime"
SETTINGS = ("defaults", "transformer")
TOOL = Path("benchmarks/quantization/tools/nncf_openvino.py")
STEPS = 4  # of a first sample
SIDE = 1024  # of the matrices of the probe


@dataclass(frozen=True)
class Turn:
    """One process of a contender: seconds to load it, of its first call and of others, and MiB at the peak."""

    load: float
    first: float
    call: float
    peak: float

    @property
    def sample(self) -> float:
        """Seconds from the start of loading to the end of a sample."""
        return self.load + self.first + (STEPS - 1) * self.call


def make_bundle(work: Path, network: str, targets: tuple[str, ...]) -> None:
    """Export the network and calibrate it for the targets, unless `work` has the bodies."""
    known = NETWORKS[network]
    if not (work / "pipeline/model_index.json").is_file():
        write_pipeline(work / "pipeline", known)
        write_conditions(known, work)
    bundle = work / "bundle"
    bodies = open_bundle(bundle).manifest.bodies if bundle.exists() else {}
    lacking = tuple(target for target in targets if body_name("int8", target) not in bodies)
    chain = Chain(work, PLAN, lacking, 1, known, "quick")
    verbs = ["export"] * ("float32" not in bodies) + ["calibrate"] * bool(lacking)
    for verb, cost, _ in run(chain, verbs) if verbs else ():
        if isinstance(cost, str):
            raise UserError(f"{verb} failed: {cost}", "")


def write_feeds(work: Path, network: str, target: str) -> None:
    """Write the inputs of the int8 bodies at the middle of the plan, for one row. All int8 bodies take those of the
    target's body."""
    if (work / "feeds.npz").exists():
        return
    opened, body = open_bundle(work / "bundle"), body_name("int8", target)
    with open_body(opened, body, 2) as sampler:
        plan = select_plan(sampler.plans, opened.body(body), parse_plan_text(PLAN))
        has_values = bool(NETWORKS[network].conditions)
        records = read_conditions(work / "held.npz", opened.manifest) if has_values else None
        given = middle_feeds(sampler, plan, 1, records)[DENOISER]
        batched = {port.name for port in sampler.body.graph.inputs if port.shape[:1] == ("batch",)}
    alone = {name: array[:1] if name in batched else array for name, array in given.items()}  # not both branches
    np.savez(work / "feeds.npz", **alone)  # type: ignore[arg-type]


def quantize_by_nncf(work: Path, python: str | None) -> dict[str, Path]:
    """Return NNCF's graphs by its settings: those that `work` has, and all with `python`."""
    opened = open_bundle(work / "bundle")
    graph = opened.graph(opened.manifest.bodies["float32"].graph)
    files = {setting: work / f"nncf-{setting}.xml" for setting in SETTINGS}
    for setting, file in files.items():
        if python and not file.exists():
            command = (python, TOOL, graph, work / "feeds.npz", setting, file)
            subprocess.run(command, check=True, env={**os.environ, "NNCF_CI": "1"}, stdout=sys.stderr)
    return {setting: file for setting, file in files.items() if file.exists()}


def take_turn(name: str, way: Way, seconds: float) -> Turn:
    """Run a contender alone in a new process."""
    with TimedProcess(name, partial(_calls, way)) as process:
        began = perf_counter()
        process.run_call("first")
        first = perf_counter() - began
        return Turn(process.load, first, median(process.wall_times(seconds)), process.peak_mib())


def _calls(way: Way) -> dict[str, Call]:
    call = way.open()
    return {"": call, "first": lambda: None if call() is None else None}  # an answer that no pipe has to carry


def probe() -> float:
    """Return the milliseconds of a product of two matrices, the least of 20."""
    a, times = np.ones((SIDE, SIDE), np.float32), []
    for _ in range(20):
        began = perf_counter()
        a @ a
        times.append(perf_counter() - began)
    return 1e3 * min(times)


def in_rounds(ways: Mapping[str, Way], rounds: int, seconds: float) -> dict[str, list[Turn]]:
    """Return the turns of each contender; the order changes with each round."""
    turns: dict[str, list[Turn]] = {name: [] for name in ways}
    for number in range(rounds):
        before = probe()
        for name in list(ways)[:: 1 if number % 2 else -1]:
            turns[name].append(take_turn(name, ways[name], seconds))
            print(f"{name}: {1e3 * turns[name][-1].call:.0f} ms", file=sys.stderr, flush=True)
        print(f"round {number + 1}: probe {before:.1f} ms before, {probe():.1f} after", file=sys.stderr, flush=True)
    return turns


def rows(turns: Mapping[str, Sequence[Turn]], ways: Mapping[str, Way]) -> Iterator[str]:
    yield "| contender | ms | speed | peak MB | disk GB | load + 4 steps, s |"
    yield "|---|---|---|---|---|---|"
    least = {name: min(turn.call for turn in each) for name, each in turns.items()}
    reference = FIRST if FIRST in least else next(iter(least))
    for name, each in turns.items():
        peak, sample = max(turn.peak for turn in each) * 2**20 / 1e6, median(turn.sample for turn in each)
        speed = least[reference] / least[name]
        cells = f"{1e3 * least[name]:.0f} | {speed:.2f} | {peak:.0f} | {ways[name].size / 1e9:.2f} | {sample:.1f}"
        yield f"| {name} | {cells} |"


def main(given: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--network", choices=("sd15", "dit-half"), default="sd15")
    parser.add_argument("--target", default=TARGETS, help="targets of our int8 bodies (default %(default)s)")
    parser.add_argument("--nncf", metavar="PYTHON", help="Python of the environment with nncf and openvino")
    parser.add_argument("--prepare", action="store_true", help="write all files, without timing")
    add_turns(parser, threads=2, rounds=3, seconds=8.0)
    add_only(parser, "contenders")
    add_work(parser)
    options = parser.parse_args(given)
    with refusing(parser), work_folder(options.work) as work:
        targets = tuple(options.target.split(","))
        make_bundle(work, options.network, targets)
        write_feeds(work, options.network, targets[0])
        nncf = quantize_by_nncf(work, options.nncf)
        if options.prepare:
            return
        ways = all_ways(work, options.network, nncf, options.threads)
        ways = {
            name: way
            for name, way in ways.items()
            if name == FIRST or not options.only or any(part in name for part in options.only)
        }
        print("\n".join(rows(in_rounds(ways, options.rounds, options.turn_seconds), ways)))


if __name__ == "__main__":
    from lab.races import large  # the processes of contenders import the functions by this name

    large.main()
