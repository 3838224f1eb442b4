"""The fastest of a kernel's first plans, by short CUDA graphs, and whether an int8 kernel has the exact integers."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from benchmarks.nvidia.cudnn.cudnn_kernels import Kernel, reading
from benchmarks.nvidia.cudnn.executor import exact_products
from benchmarks.nvidia.cudnn.operations import Operation

INT8_PLANS, HALF_PLANS = 9, 16  # that are tried: all in int8, and of half those that the heuristics put first
TOO_SLOW = 4.0  # times the fastest: such a plan is timed once
CALLS, REPLAYS = 5, 4
ROUNDING = frozenset({"silu", "gelu_tanh", "tanh", "sigmoid"})


@dataclass(frozen=True)
class Tuner:
    """Chooses plans. turn: gives the GPU to this process while plans are timed."""

    turn: Callable[[], AbstractContextManager[None]]

    def __call__(self, kernel: Kernel, x: Tensor, weights: Tensor, operands: Sequence[Tensor]) -> float:
        """Choose the fastest plan that runs, and return its microseconds. Raises the last error if none runs."""
        most = INT8_PLANS if kernel.operation.precision == "int8" else HALF_PLANS
        names, failure, times = kernel.names()[:most], RuntimeError("cuDNN lists no plan"), dict[int, float]()
        for number in range(len(names)):
            try:
                kernel.choose(number)
                with self.turn():
                    fastest = min(times.values(), default=math.inf)
                    times[number] = plan_time(partial(kernel.run, x, weights, operands), fastest)
            except Exception as error:  # cuDNN's errors share no base class but Exception
                failure = RuntimeError(str(error))
                torch.cuda.synchronize()  # raises where the process can use the GPU no more
        if not times:
            raise failure
        best = min(times, key=times.__getitem__)
        kernel.choose(best)
        return times[best]

    def time(self, call: Callable[[], Any]) -> float:
        """Microseconds of a call."""
        with self.turn():
            return graph_time(call, CALLS, REPLAYS)


def plan_time(call: Callable[[], Any], fastest: float) -> float:
    """Microseconds of a call, by few of them."""
    first = time_call(call, 1)  # loads what it needs
    once = min(first, time_call(call, 1))
    if once > TOO_SLOW * fastest + 100:  # a launch by itself takes some microseconds
        return once
    return graph_time(call, CALLS, REPLAYS)


def time_call(call: Callable[[], Any], calls: int) -> float:
    """Microseconds of a call, each launched by the host."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return float(1e3 * begin.elapsed_time(end) / calls)


def graph_time(call: Callable[[], Any], calls: int, replays: int) -> float:
    """Microseconds of one of several calls in a CUDA graph, in its fastest replay. Operands that fit stay in the
    cache."""
    recorded = record(lambda: [call() for _ in range(calls)])
    recorded.replay()
    return min(time_call(recorded.replay, 1) for _ in range(replays)) / calls


def record(call: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """Record calls as a CUDA graph, after one call without recording."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded, stream=stream):
        call()
    return recorded


def is_exact(of: Operation) -> bool:
    """Return whether an epilogue of powers of two and zeros only rounds the result."""
    return of.precision == "int8" and not ROUNDING.intersection(of.epilogue)


def differing_sums(kernel: Kernel, x: Tensor, weights: Tensor, operands: Sequence[Tensor]) -> int:
    """Return how many results of a kernel are not exact, for powers of two as scales and zeros as addends.

    A sum times a power of two is exact in float32, so that the result has the same bits in any order.
    """
    of = kernel.operation
    power = 2.0 ** -round(math.log2(prod(of.weights[1:]) ** 0.5 * 127**2))
    numbers = {"scale": power, "factor": 1.0, "inverse_step": 1.0}
    given = [
        torch.full_like(operand, numbers.get(step, 0.0)) for step, operand in zip(reading(of), operands, strict=False)
    ]
    found = kernel.run(x, weights, given)
    expected = exact_products(of, x, weights).float() * power
    if "relu" in of.epilogue:
        expected = torch.relu(expected)
    if of.result == "int8":
        expected = torch.round(expected).clamp(-128, 127)
    return int((found != expected.to(found.dtype)).sum())
