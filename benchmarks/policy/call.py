"""Where the time of a policy's call goes: `python -m benchmarks.policy.call BUNDLE [--plan euler:10@trailing]`.

A row of the first table is a body of the bundle in a process of its own, and the processes take turns of a few calls.
Columns are medians in ms of the processor, of all threads, which other programs of the machine disturb least: a call of
one thread takes as long on an idle machine. They are the whole call, the conditioner (encoders, keys and values), the
prologue, the steps of the body, and the host, which is what the call takes beyond its graphs. The last column is the
median over the turns of a row's ratio to float32, with the least and the greatest.

`--rival NAME COMMAND` adds a process that speaks as `serve` does: a line with a number asks for so many calls, and a
line of JSON answers with a list of seconds for each. `smolvla_torch.py` is LeRobot's own loop.

The second table counts the products with weights of a call of the float32 body, and their multiply-accumulates.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import table
from fewstep.graph.io import load as load_graph
from fewstep.graph.prologue import work
from fewstep.graph.types import infer_types
from fewstep.robots.control import SequenceRequest, sample_sequences
from fewstep.runtime import load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.conditions import drawn_range

PARTS = ("conditioner", "prologue", "graph")
HEAD = ("body", "call", "encoder", "prologue", "steps", "host", "of float32")
ROWS = 32  # windows that are drawn where no file has any
WARM_UP = 3  # calls


@dataclass
class Timed:
    """A loaded graph, and the seconds that it has run."""

    loaded: Callable[[Mapping[str, NDArray[Any]]], Any]
    seconds: float = 0.0

    def __call__(self, feeds: Mapping[str, NDArray[Any]]) -> Any:
        began = time.process_time()
        outputs = self.loaded(feeds)
        self.seconds += time.process_time() - began
        return outputs

    def taken(self) -> float:
        seconds, self.seconds = self.seconds, 0.0
        return seconds


def windows(bundle: Bundle, file: Path | None, seed: int = 0) -> list[dict[str, NDArray[Any]]]:
    """What a policy sees, one window a call: rows of a file of conditions, or draws of the range that each has."""
    takes, policy = bundle.manifest.conditions, bundle.manifest.policy
    own = [each for each in takes if policy is None or each.name not in (policy.prefix, policy.delay)]
    if file is not None:
        with np.load(file) as archive:
            arrays = {each.name: archive[each.name] for each in own}
        return [dict(zip(arrays, row, strict=True)) for row in zip(*arrays.values(), strict=True)]
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(ROWS):
        ranges = {each: drawn_range(each) or (0.0, 1.0) for each in own}
        drawn.append({each.name: rng.uniform(*ends, each.shape).astype(each.dtype) for each, ends in ranges.items()})
    return drawn


def serve(given: argparse.Namespace) -> None:
    """Answer each line of stdin, a number of calls, with [call, conditioner, prologue, steps] in seconds of each."""
    backend = OnnxRuntime(threads=given.threads, spinning=False)
    sampler = load(given.bundle, precision=given.serve, backend=backend)
    timed = {name: Timed(graph) for name in PARTS if (graph := getattr(sampler.of(), name)) is not None}
    sampler = sampler.changed(**timed)
    plan, seen = sampler.compile(given.plan), cycle(windows(sampler.bundle, given.conditions))

    def call() -> list[float]:
        sampler.forget()  # a file may have one window alone
        request, began = SequenceRequest(next(seen), 0), time.process_time()
        sample_sequences(sampler, plan, [request])
        whole = time.process_time() - began
        return [whole, *(timed[name].taken() if name in timed else 0.0 for name in PARTS)]

    for _ in range(WARM_UP):
        call()
    for line in sys.stdin:
        print(json.dumps([call() for _ in range(int(line))]), flush=True)


class Rival:
    """A process that makes calls when it is asked; it ends with the block it was opened in."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name, self.turns = name, list[list[list[float]]]()
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def __enter__(self) -> "Rival":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def turn(self, calls: int) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{calls}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended; run it alone to see why")
        self.turns.append([list(np.atleast_1d(each)) for each in json.loads(line)])

    def cells(self, float32: "Rival") -> tuple[str, ...]:
        calls = [call for turn in self.turns for call in turn]
        whole, *parts = (1e3 * median(column) for column in zip(*calls, strict=True))
        host = [f"{1e3 * median(call[0] - sum(call[1:]) for call in calls):.3g}"] if parts else [""] * 4
        ratios = [_median(own) / _median(theirs) for own, theirs in zip(self.turns, float32.turns, strict=True)]
        ratio = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        return (self.name, f"{whole:.3g}", *(f"{part:.3g}" for part in parts), *host, ratio)


def _median(turn: Sequence[Sequence[float]]) -> float:
    return median(call[0] for call in turn)


def products(bundle: Bundle, steps: int) -> Iterator[tuple[str, int, int, int]]:
    """Of each graph: its name, how often a call runs it, its products with weights, and its multiply-accumulates."""
    manifest = bundle.manifest
    body = next(iter(manifest.bodies.values()))
    for name, entry, runs in (
        ("conditioner", manifest.conditioner, 1),
        ("prologue", manifest.prologue, steps),
        ("body", body.graphs[0], steps),
    ):
        if entry is not None:
            graph = load_graph(bundle.graph(entry), root=bundle.path)
            weighted = [n for n in graph.nodes if n.op in ("MatMul", "Gemm", "Conv") and n.inputs[1] in graph.constants]
            types = infer_types(graph)
            yield name, runs, len(weighted), sum(work(node, types) for node in graph.nodes)


def counts(bundle: Bundle, steps: int) -> str:
    """The table of products, and what they add up to: in a call, and where one graph made all in each step."""
    found = list(products(bundle, steps))
    rows = [(name, str(runs), str(count), f"{macs / 1e6:,.2f}") for name, runs, count, macs in found]
    for name, times in (
        ("a call", [runs for _, runs, _, _ in found]),
        ("one graph in each step", [steps] * len(found)),
    ):
        count = sum(runs * each[2] for runs, each in zip(times, found, strict=True))
        macs = sum(runs * each[3] for runs, each in zip(times, found, strict=True))
        rows.append((name, "", str(count), f"{macs / 1e6:,.2f}"))
    return table(("graph", "runs a call", "products with weights", "million multiply-accumulates"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--plan", default="euler:10@trailing")
    parser.add_argument("--conditions", type=Path, help="an .npz file of observations")
    parser.add_argument("--threads", type=int, default=1, help="of a call")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--calls", type=int, default=20, help="of a turn")
    parser.add_argument("--rival", nargs=2, action="append", default=[], metavar=("NAME", "COMMAND"))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(given)
    bundle = open_bundle(given.bundle)
    own = [sys.executable, "-m", "benchmarks.policy.call", *sys.argv[1:], "--serve"]
    kinds = sorted({body.precision for body in bundle.manifest.bodies.values()} & {"float32", "int8"})
    if "float32" not in kinds:
        sys.exit(f"{given.bundle} has no float32 body, which the others are compared with; give one that is not packed")
    commands = {kind: [*own, kind] for kind in kinds} | {name: shlex.split(command) for name, command in given.rival}
    with ExitStack() as stack:
        rivals = [stack.enter_context(Rival(name, command)) for name, command in commands.items()]
        for turn in range(given.turns):
            for rival in rivals if turn % 2 else reversed(rivals):
                rival.turn(given.calls)
    print(table(HEAD, [rival.cells(rivals[0]) for rival in rivals]))
    steps = len(load(given.bundle).compile(given.plan).steps)
    print(f"\n{counts(bundle, steps)}")


if __name__ == "__main__":
    main()
