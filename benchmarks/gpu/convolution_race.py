"""cuDNN's plans of a convolution, compiled and timed on this machine's GPU: int8 against half precision."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.gpu.convolution_reference import Operands, compare, draw_operands
from benchmarks.gpu.fused_convolution import Convolution, Form, engines_of, fused_graph
from benchmarks.gpu.results import AnyRecord, PlanCount, PlanTime
from benchmarks.gpu.workers import lock, reason_of

FIRST = Convolution(2, 320, 320, 64, 64)
CONVOLUTIONS = (  # the first level of Stable Diffusion 1.5, and levels of small U-Nets; the most telling first
    FIRST,
    Convolution(64, 320, 320, 64, 64),
    Convolution(64, 128, 128, 32, 32),
    Convolution(64, 64, 64, 28, 28),
    Convolution(2, 64, 64, 28, 28),
)
COMPILED: dict[Form, int] = {"silu": 16, "int8": 16, "half_silu": 16}  # plans at most, each compiled for seconds
SHIPPED: tuple[Form, ...] = ("half_bias", "half")  # plans that are in cuDNN's library: all in one job
CALLS, REPLAYS = 20, 10  # calls in one CUDA graph, and its replays


@dataclass(frozen=True)
class PlanJob:
    """Some plans of a convolution. first, count: their numbers in the order of cuDNN's heuristics."""

    of: Convolution
    form: Form
    first: int
    count: int
    turn: Path

    def run(self) -> Iterable[AnyRecord]:
        import torch

        cudnn, handle = open_cudnn()
        graph = fused_graph(cudnn, self.of, self.form, handle)
        total = graph.get_execution_plan_count()
        if self.first == 0:
            yield PlanCount(self.of.name, self.form, total, engines=engines_of(graph))
        with lock(self.turn):
            operands = draw_operands(self.of, self.form, "cuda")
            torch.cuda.synchronize()
        for number in range(self.first, min(self.first + self.count, total)):
            yield from run_plan(graph, number, self, operands)

    def failure(self, reason: str) -> PlanTime:
        return PlanTime(self.of.name, self.form, f"plans from {self.first} on", reason=reason)


def plan_jobs(turn: Path, convolutions: Sequence[Convolution] = CONVOLUTIONS) -> list[PlanJob]:
    """Return first one exact convolution, then the race."""
    first = convolutions[0]
    jobs = [PlanJob(first, form, 0, 1, turn) for form in ("sums", "linear", "silu", "int8")]
    jobs += [PlanJob(first, "linear", number, 1, turn) for number in range(1, 9)]
    for of in convolutions:
        jobs += [PlanJob(of, form, 0, 100, turn) for form in SHIPPED]
        own = [PlanJob(of, form, number, 1, turn) for form, most in COMPILED.items() for number in range(most)]
        jobs += [job for job in own if job not in jobs]
    return jobs


@cache
def open_cudnn() -> tuple[Any, Any]:
    """Return the module cudnn and a handle with this process's stream."""
    stream()  # torch loads the library that the module cudnn takes, so it comes first
    cudnn = import_module("cudnn")
    handle = cudnn.create_handle()
    cudnn.set_stream(handle=handle, stream=stream().cuda_stream)
    return cudnn, handle


@cache
def stream() -> Any:
    """The stream on which plans run."""
    import torch

    return torch.cuda.Stream()


def run_plan(graph: Any, number: int, job: PlanJob, operands: Operands) -> Iterable[AnyRecord]:
    """Compile a plan, then compare its result and time it, while no other plan uses the GPU."""
    import torch

    name, seconds = graph.get_plan_name_at_index(number), None
    try:
        started = time.perf_counter()
        graph.build_plan_at_index(number)
        seconds = time.perf_counter() - started
        with lock(job.turn):
            found = run_once(graph, number, operands)
            yield compare(job.of, job.form, name, operands)
            yield PlanTime(job.of.name, job.form, name, seconds, microseconds(found))
    except Exception as error:  # cuDNN's errors share no base class but Exception
        yield PlanTime(job.of.name, job.form, name, seconds, reason=reason_of(error))
        torch.cuda.synchronize()  # raises where the process can use the GPU no more: the job ends


def run_once(graph: Any, number: int, operands: Operands) -> Callable[[], None]:
    """Return a call of a compiled plan, which ran once and left its result in the operands."""
    import torch

    size = graph.get_workspace_size_plan_at_index(number)
    workspace = torch.empty(max(size, 1), dtype=torch.uint8, device="cuda")
    operands.result.fill_(77)  # what no kernel writes is seen

    def call() -> None:
        graph.execute_plan_at_index(operands.by_number, workspace, number, handle=open_cudnn()[1])

    torch.cuda.synchronize()
    with torch.cuda.stream(stream()):
        call()
    torch.cuda.synchronize()
    return call


def microseconds(call: Callable[[], None]) -> float:
    """Return the time of one of many calls in a CUDA graph, in its fastest replay, since other processes may use the
    GPU too. Operands that fit stay in its cache.
    """
    import torch

    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded, stream=stream()):
        for _ in range(CALLS):
            call()
    times = []
    with torch.cuda.stream(stream()):
        recorded.replay()
        for _ in range(REPLAYS):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            recorded.replay()
            end.record()
            end.synchronize()
            times.append(1e3 * begin.elapsed_time(end) / CALLS)
    return float(min(times))
