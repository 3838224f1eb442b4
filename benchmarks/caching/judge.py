"""A body as it is deployed, whose inner tensors may be taken from former steps: its samples, its time, the table."""

import json
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.caching.cut import cut, switched
from benchmarks.markdown import part_of, put_part, table
from benchmarks.options import add_page, refuse_other_seeds
from fewstep.graph import io
from fewstep.graph.graph import Graph
from fewstep.graph.session import GraphSession, open_session
from fewstep.graph.types import infer_types
from fewstep.measure.rollouts.metrics import psnr
from fewstep.plans.plan import Plan
from fewstep.runtime.execute import StepNetwork, execute, finish
from fewstep.runtime.sampler import Sampler
from fewstep.runtime.slots import Carrying, first_slots

Floats = NDArray[np.floating]
Conditions = Callable[[Sequence[int]], Mapping[str, Any]]  # of seeds
BATCH, ROUNDS = 8, 25
LISTED = 6  # steps in a cell
PAGE = Path(__file__).parents[2] / "docs/measured/caching.md"


class Switched:
    """The body of a sampler with a switch at each of `tensors`. like: the graph that it was lowered from."""

    def __init__(self, sampler: Sampler, tensors: Sequence[str], like: Graph, conditions: Conditions) -> None:
        self.sampler, self.tensors, self.like, self.conditions = sampler, tuple(tensors), like, conditions
        self.graph = io.load(sampler.bundle.graph(sampler.body.graph), root=sampler.bundle.path)
        self.output, self.types = self.graph.outputs[0].name, infer_types(like).values
        self.session = opened(switched(self.graph, tensors, like))
        self.shares: dict[frozenset[str], float] = {}

    def sample(self, plan: Plan, seeds: Sequence[int], written: list[dict[str, Floats]] | None = None) -> Floats:
        """Samples of a plan of `cached` [seeds, ...], in batches; what its steps use goes to `written`."""
        parts = [seeds[start : start + BATCH] for start in range(0, len(seeds), BATCH)]
        return np.concatenate([self._sample(plan, part, written) for part in parts])

    def _sample(self, plan: Plan, seeds: Sequence[int], written: list[dict[str, Floats]] | None) -> Floats:
        fed = self.sampler.feeds(without_banks(plan), len(seeds), self.conditions(seeds))

        def call(index, step, u, taken):  # type: ignore[no-untyped-def]
            returned = self.session(self._fed(fed(index), np.concatenate([u] * len(step.branches)), taken))
            made = {name: returned[name] for name in self.tensors}
            if written is not None:
                written.append(made)
            return np.split(returned[self.output], len(step.branches)), made

        slots = first_slots(plan, lambda name, rows: np.zeros(0), len(seeds))
        return finish(plan, execute(plan, Carrying(call, slots), self.sampler.draws(seeds)))

    def _fed(self, fed: Mapping[str, Floats], x: Floats, taken: Mapping[str, Floats]) -> dict[str, Floats]:
        feeds = {**fed, "x": x}
        for name in self.tensors:
            feeds[f"taken({name})"] = np.array(name in taken)
            feeds[f"carried({name})"] = taken.get(name, np.zeros([1] * len(self.types[name].shape), np.float32))
        return feeds

    def cost(self, plan: Plan, mask: NDArray[np.bool_]) -> float:
        """The time of a run in evaluations of the body, by a mask [steps, tensors]."""
        patterns = [frozenset(name for name, own in zip(self.tensors, row, strict=True) if own) for row in mask]
        return sum(self.share(plan, each) for each in patterns)

    def share(self, plan: Plan, taken: frozenset[str]) -> float:
        """Processor time of the graph that takes these and returns the others, for one sample: its share of the body's
        own, a median of pairs."""
        if taken not in self.shares:
            step, whole = plan.steps[-1], opened(self.graph)
            fed = self.sampler.feeds(without_banks(plan), 1, self.conditions([0]))(len(plan.steps) - 1)
            shape = (len(step.branches), *self.sampler.bundle.manifest.x_shape)
            x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
            made = self.session(self._fed(fed, x, {}))
            carried = {name: 1.01 * made[name] for name in taken}
            taps = tuple(self.types[name] for name in self.tensors if name not in taken)
            graph = replace(self.graph, outputs=(*self.graph.outputs, *taps))
            part = opened(cut(graph, sorted(taken), self.like).shallow if taken else graph)
            feeds = {**fed, "x": x, **carried}
            expected = self.session(self._fed(fed, x, carried))[self.output]
            assert np.abs(part(feeds)[self.output] - expected).max() < 1e-4  # the cut is what was sampled
            self.shares[taken] = median(seconds(part, feeds) / seconds(whole, feeds) for _ in range(ROUNDS))
        return self.shares[taken]


def opened(graph: Graph) -> GraphSession:
    return open_session(graph, optimize=True, arena=True, threads=1)


def seconds(session: GraphSession, feeds: Mapping[str, Floats]) -> float:
    start = time.process_time()
    session(feeds)
    return time.process_time() - start


def without_banks(plan: Plan) -> Plan:
    """The steps alone, for the inputs of each."""
    steps = tuple(
        msgspec.structs.replace(step, network="denoiser", carry=(), carry_in=(), carry_in_terms=())
        for step in plan.steps
    )
    return msgspec.structs.replace(plan, steps=steps, banks=(), tensors=())


def around(
    sampler: Sampler,
    name: str,
    guidance: float,
    seeds: Sequence[int],
    conditions: Conditions,
    wrap: Callable[[StepNetwork], tuple[StepNetwork, list[bool]]] | None = None,
) -> Floats:
    """Samples [seeds, ...] of a plan in batches, with something around the network."""
    plan, samples = sampler.compile(name, guidance), []
    for start in range(0, len(seeds), BATCH):
        part = seeds[start : start + BATCH]
        network = sampler.network(plan, len(part), conditions(part))
        own = network if wrap is None else wrap(network)[0]
        samples.append(finish(plan, execute(plan, own, sampler.draws(part))))
    return np.concatenate(samples)


def row(name: str, base: str, taken: str, cost: float, own: Floats, teacher: Floats) -> dict[str, Any]:
    """A row of the table: T, and PSNR to the teacher."""
    decibels = psnr(own, teacher)
    error = float(decibels.std(ddof=1) / len(decibels) ** 0.5)
    return {"name": name, "base": base, "taken": taken, "T": cost, "dB": float(decibels.mean()), "error": error}


def tables(made: Sequence[Mapping[str, Any]]) -> str:
    """Plans without caching, and schedules with the lines of these plans, between the whole numbers beside T."""
    plain = [each for each in made if not each["taken"]]

    def line(is_fitted: bool, cost: float) -> str:
        known = sorted((r["T"], r["dB"]) for r in plain if r["base"].startswith("fitted") == is_fitted)
        is_between = known and known[0][0] <= cost <= known[-1][0]
        return f"{np.interp(cost, *zip(*known, strict=True)):.1f}" if is_between else "–"

    without = [(f"`{r['base']}`", f"{r['T']}", f"{r['dB']:.1f} ± {r['error']:.1f}") for r in plain]
    head = ("schedule", "base", "taken", "T", "dB", "line, nominal", "line, fitted")
    schedules = [
        (r["name"], f"`{r['base']}`", shortened(r["taken"]), f"{r['T']:.2f}", f"{r['dB']:.1f} ± {r['error']:.1f}")
        + (line(False, r["T"]), line(True, r["T"]))
        for r in made
        if r["taken"]
    ]
    return f"{table(('plan without caching', 'evaluations', 'dB'), without)}\n\n{table(head, schedules)}"


def shortened(taken: str) -> str:
    """Of many steps the first three and the last."""
    steps = taken.split(", ")
    return taken if len(steps) <= LISTED else ", ".join((*steps[:3], "...", steps[-1]))


def script(
    parser: ArgumentParser,
    name: str,
    rows: Callable[[Path, range, Sequence[int]], Iterable[Mapping[str, Any]]],
    steps: list[int],
) -> None:
    """A benchmark that prints each row as it comes, and then the tables. `name` is that of its part of the page."""
    parser.add_argument("--work", type=Path, required=True, help="folder of bundles and teachers")
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--steps", type=int, nargs="+", default=steps, help="of the plans that take tensors")
    add_page(parser, PAGE)
    arguments = parser.parse_args()
    refuse_other_seeds(parser, arguments)
    arguments.work.mkdir(parents=True, exist_ok=True)
    part = name if arguments.steps == steps else f"{name}, {' '.join(map(str, arguments.steps))} steps"
    if arguments.page:
        part_of(PAGE.read_text(), part)  # refused before an hour of work
    lines = []
    for each in rows(arguments.work, range(arguments.seeds), arguments.steps):
        lines.append(each)
        print(json.dumps(each), flush=True)
    made = tables(lines)
    print(made)
    if arguments.page:
        put_part(PAGE, part, made)
