"""What one evaluation costs in float32 and in int8: `python benchmarks/large/evaluation_cost.py BUNDLE`.

    python benchmarks/large/evaluation_cost.py BUNDLE [--plan ddim:4] [--threads 1] [--rounds 2]

Each body whose engine is here is opened in a process of its own, one after the other. It evaluates one sample along the
plan, `rounds` times. Prints processor seconds of one evaluation with all branches, the least of all but the first; how
many times less that is than float32's; the weights that the body reads; and the most memory that was resident. Seconds
of the processor depend little on what else the machine does, as long as there is one thread. Linux only.
"""

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from time import process_time

from counting_share import drawn

from fewstep.evaluation.cost import body_bytes, live_bytes
from fewstep.evaluation.sampling_job import FLOAT
from fewstep.graph import io
from fewstep.lowering.bodies import int8_bodies, is_native, open_body
from fewstep.machine.memory import peak
from fewstep.rollouts.conditions_file import deal, read_arrays
from fewstep.rollouts.trajectories import roll_out
from fewstep.runtime.bundle.reading import open_bundle

GB = 1e9


def measure(folder: Path, name: str, plan: str, threads: int, rounds: int) -> tuple[float, int]:
    """Processor seconds of an evaluation by a body, and the most bytes that this process had."""
    sampler = open_body(open_bundle(folder), name, threads)
    with tempfile.TemporaryDirectory() as own:
        file = drawn(folder, Path(own), rounds)
        rows = None if file is None else deal(read_arrays(file), rounds)
    seconds = list[float]()
    before = process_time()
    for _ in roll_out(sampler, sampler.compile(plan), range(10**6, 10**6 + rounds), batch=1, conditions=rows):
        now = process_time()
        seconds.append(now - before)
        before = now
    return min(seconds[1:]), peak() or 0


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--plan", default="ddim:4")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args(arguments)
    bundle = open_bundle(given.bundle)
    graph = io.load(bundle.graph(bundle.body(FLOAT).graph), root=bundle.path)
    print(f"live activations of a row: {live_bytes(graph) / GB:.2f} GB")
    print(f"{'':<16} {'processor s':>11} {'times':>6} {'reads GB':>9} {'peak GB':>8}", flush=True)
    exact = None
    for name in (FLOAT, *(name for name, body in int8_bodies(bundle).items() if is_native(body))):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            took, most = process.submit(measure, given.bundle, name, given.plan, given.threads, given.rounds).result()
        exact = took if exact is None else exact
        size = body_bytes(bundle, name) / GB
        print(f"{name:<16} {took:11.2f} {exact / took:6.2f} {size:9.2f} {most / GB:8.2f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
