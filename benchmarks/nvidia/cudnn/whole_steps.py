"""Whole calls of a denoiser's body: int8 and half precision by cuDNN, and half precision compiled by torch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from benchmarks.gpu.results import AnyRecord, GroupTime, StepTime
from benchmarks.gpu.workers import lock, reason_of
from benchmarks.nvidia.cudnn.cudnn_kernels import KERNELS, CudnnKernels, Group, groups_in_torch, integer_product
from benchmarks.nvidia.cudnn.engines import COMPILED, CUDNN, ENGINES, INT8, SIMULATED
from benchmarks.nvidia.cudnn.executor import RESULTS, Compute, Executor, IntegerKernels
from benchmarks.nvidia.cudnn.operations import Operation
from benchmarks.nvidia.cudnn.programs import BODY, FLOAT32, HALF, PreparedRun, int8_files, load_graph, load_run
from benchmarks.nvidia.cudnn.tuning import Tuner, differing_sums, graph_time, is_exact, record, time_call
from fewstep.graph.graph import GROUP
from fewstep.measure.rollouts.metrics import psnr

REHEARSED = 2  # seeds
CALLS, REPLAYS, STEP_REPLAYS = 10, 8, 40
COMPARED_BATCH = 8  # whose groups are compared with exact sums

Feeds = dict[str, Tensor]


@dataclass(frozen=True)
class StepJob:
    """All engines of a denoiser at one batch, in one process.

    folder: of prepared denoisers. batch: rows. turn: the file whose lock is held while the GPU is timed. compared: also
    draw samples. device: cpu rehearses without cuDNN, CUDA graphs and times.
    """

    name: str
    folder: Path
    batch: int
    turn: Path
    is_compared: bool
    device: str = "cuda"

    def run(self) -> Iterable[AnyRecord]:
        torch.backends.cudnn.benchmark = True
        run, bodies = load_run(self.folder / self.name), {}
        if self.device == "cpu":
            run = first_seeds(run, REHEARSED)
        if self.is_compared:
            yield add_psnr(StepTime(self.name, self.batch, SIMULATED), run.expected[BODY], run)
        for engine in ENGINES:
            try:
                bodies[engine] = opened = self._open(engine, run)
                yield from self._measure(engine, opened, run)
            except Exception as error:  # torch's and cuDNN's errors share no base class but Exception
                yield StepTime(self.name, self.batch, engine, reason=reason_of(error))
                if self.device == "cuda":
                    torch.cuda.synchronize()  # raises where the process can use the GPU no more: the job ends
        if self.device == "cuda" and INT8 in bodies and CUDNN in bodies:
            yield from self._groups(bodies[INT8], bodies[CUDNN])
            yield from self._products(bodies[INT8])

    def failure(self, reason: str) -> StepTime:
        return StepTime(self.name, self.batch, "all", reason=reason)

    def _turn(self) -> AbstractContextManager[None]:
        return lock(self.turn) if self.device == "cuda" else nullcontext()

    def _open(self, engine: str, run: PreparedRun) -> "Body":
        files = int8_files(self.folder / self.name) if engine == INT8 else [self.folder / self.name / HALF]
        feeds = feeds_of(run, self.batch, self.device)
        used = files if self.is_compared else files[-1:]
        return Body([Network(file, engine, feeds, self.device, self._turn) for file in used])

    def _measure(self, engine: str, body: "Body", run: PreparedRun) -> Iterator[AnyRecord]:
        row = StepTime(self.name, self.batch, engine)
        if self.device == "cuda":
            with self._turn():
                times = [time_call(body.networks[-1].replay, 1) for _ in range(STEP_REPLAYS)]
            row = msgspec.structs.replace(row, least_time=min(times), median=float(np.median(times)))
        if self.is_compared:
            with self._turn():
                samples = draw(run, body, self.batch, is_int8=engine == INT8, device=self.device)
            row = add_psnr(row, samples, run)
        yield row

    def _groups(self, int8: "Body", half: "Body") -> Iterator[GroupTime]:
        """Yield the groups of the int8 body, one by one, with those of half precision."""
        others = half.networks[-1].groups
        for name, (group, given) in int8.networks[-1].groups.items():
            kernel, other = KERNELS[group.number], others.get(name)
            if kernel.operation.precision != "int8":
                continue
            with self._turn():
                is_compared = self.batch == COMPARED_BATCH and is_exact(kernel.operation)
                different = differing_sums(kernel, *given) if is_compared else None
                ours = graph_time(partial(group, *given), CALLS, REPLAYS)
                theirs = None if other is None else graph_time(partial(other[0], *other[1]), CALLS, REPLAYS)
            plans = (kernel.name, "" if other is None else KERNELS[other[0].number].name)
            of = kernel.operation
            yield GroupTime(self.name, self.batch, name, of.name, of.epilogue_text, ours, theirs, *plans, different)

    def _products(self, int8: "Body") -> Iterator[GroupTime]:
        """Yield the products of matrices, without the steps after them, which torch fuses with other operations."""
        for name, (of, x, weights) in int8.networks[-1].products.items():
            half = (x[0].to(RESULTS[of.floats]), weights[0].to(RESULTS[of.floats]))
            with self._turn():
                ours = graph_time(partial(integer_product, x[0], weights[0]), CALLS, REPLAYS)
                theirs = graph_time(partial(torch.matmul, *half), CALLS, REPLAYS)
            fields = (self.name, self.batch, name, of.name, "none, to int32 or half", ours, theirs)
            yield GroupTime(*fields, "torch._int_mm", "torch.matmul")


def add_psnr(row: StepTime, samples: np.ndarray, run: PreparedRun) -> StepTime:
    """The row with the PSNR of samples, and its difference from the simulated int8 body's, paired by seed."""
    decibels, own = psnr(samples, run.expected[FLOAT32]), psnr(samples, run.expected[BODY])
    differences = decibels - psnr(run.expected[BODY], run.expected[FLOAT32])
    seeds = len(differences)
    return msgspec.structs.replace(
        row,
        mean=float(decibels.mean()),
        least=float(decibels.min()),
        simulated=float(own.mean()),
        difference=float(differences.mean()),
        standard_error=float(differences.std(ddof=1) / seeds**0.5) if seeds > 1 else None,
    )


def first_seeds(run: PreparedRun, count: int) -> PreparedRun:
    """The run of the first seeds alone."""
    seeds = len(run.noise)
    rows = [seed + seeds * branch for branch in range(run.branches) for seed in range(min(count, seeds))]
    feeds = tuple({name: each if name == GROUP else each[rows] for name, each in step.items()} for step in run.feeds)
    expected = {name: each[:count] for name, each in run.expected.items()}
    return replace(run, noise=run.noise[:count], feeds=feeds, expected=expected)


@dataclass(frozen=True)
class Body:
    """The networks of a body: one, or one for each interval of steps."""

    networks: list["Network"]


class Network:
    """A graph that is compiled and recorded for one batch.

    groups, products: as in `CudnnKernels` after a call, empty for other engines. is_compiled: by torch, also on a
    CPU.
    """

    def __init__(
        self,
        file: Path,
        engine: str,
        feeds: Feeds,
        device: str,
        turn: Callable[[], AbstractContextManager[None]],
        is_compiled: bool = False,
    ) -> None:
        graph = load_graph(file)
        names = {value.name for value in graph.inputs}
        self._feeds = {name: tensor.clone() for name, tensor in feeds.items() if name in names}
        self.groups: dict[str, tuple[Group, tuple[Any, ...]]] = {}
        self.products: dict[str, tuple[Operation, Tensor, Tensor]] = {}
        compute: Compute = groups_in_torch
        if engine != COMPILED and device == "cuda":
            compute = kernels = CudnnKernels(tuner := Tuner(turn), tuner.time)
            self.groups, self.products = kernels.groups, kernels.products
        elif engine != COMPILED:
            compute = IntegerKernels()
        executor = Executor(graph, device, compute)
        tensors = list(self._feeds.values())

        def flat(*given: Tensor) -> Tensor:
            return executor(dict(zip(self._feeds, given, strict=True)))[0]

        with torch.no_grad():
            flat(*tensors)  # plans are chosen
            traced: Any = make_fx(flat)(*tensors)
            if device == "cuda" or is_compiled:
                traced = torch.compile(traced, dynamic=False, fullgraph=True)
            self.replay: Callable[[], Any] = lambda: traced(*tensors)
            if device == "cuda":
                traced(*tensors)  # compiles
                with turn():
                    recorded, self._output = record_call(self.replay)
                self.replay = recorded.replay

    def __call__(self, feeds: Mapping[str, Tensor]) -> Tensor:
        """Return the output for other inputs, some rows of which are written."""
        for name, tensor in feeds.items():
            if name in self._feeds:
                self._feeds[name][: len(tensor)] = tensor
        with torch.no_grad():
            found = self.replay()
        return self._output if found is None else found


def record_call(call: Callable[[], Tensor]) -> tuple[Any, Tensor]:
    """A CUDA graph of a call, and its output."""
    outputs: list[Tensor] = []
    graph = record(lambda: outputs.append(call()))
    return graph, outputs[-1]


def feeds_of(run: PreparedRun, batch: int, device: str) -> Feeds:
    """Inputs of a body for a batch: those of the first step, repeated."""
    rows = len(run.noise) * run.branches
    times = -(-batch // rows)
    x = np.concatenate([run.noise] * run.branches)
    given = {run.x: x, **run.feeds[0]}
    return {
        name: torch.from_numpy(array if name == GROUP else np.concatenate([array] * times)[:batch]).to(device)
        for name, array in given.items()
    }


def draw(run: PreparedRun, body: Body, batch: int, is_int8: bool, device: str) -> np.ndarray:
    """Draw samples [seeds, ...] along the plan, in whole batches of a body."""
    seeds, most = len(run.noise), batch // run.branches
    parts = [range(first, min(first + most, seeds)) for first in range(0, seeds, most)]
    return np.concatenate([draw_part(run, body, part, is_int8, device) for part in parts])


def draw_part(run: PreparedRun, body: Body, part: range, is_int8: bool, device: str) -> np.ndarray:
    """Samples of some seeds, at most as many as the rows of a body hold."""
    places = np.concatenate(
        [np.arange(part.start, part.stop) + len(run.noise) * branch for branch in range(run.branches)]
    )
    noise = torch.from_numpy(run.noise[part.start : part.stop]).to(device)
    state = [combine(row, [noise]) for row in run.start]
    for step, arrays in zip(run.steps, run.feeds, strict=True):
        network = body.networks[step.graph if is_int8 else 0]
        u = combine(step.input, state)
        feeds = {
            name: torch.from_numpy(array if name == GROUP else array[places]).to(device)
            for name, array in arrays.items()
        }
        outputs = network({**feeds, run.x: torch.cat([u] * run.branches)})[: len(places)].float().clone()
        state = [combine(row, [*state, *outputs.chunk(run.branches)]) for row in step.update]
    return np.asarray(combine(run.output, state).cpu())


def combine(row: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """sum_j row[j] * tensors[j]."""
    return sum(number * tensor for number, tensor in zip(row, tensors, strict=True) if number)  # type: ignore[return-value]
