"""The processor's time of a policy's sequences, and the memory of the process: each contender in one of its own."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.policy.verdicts import Contender
from fewstep.plans.shaping import Clip
from fewstep.robots.control import SequenceRequest, sample_sequences
from fewstep.robots.control.plan_choice import compile_plans
from fewstep.runtime import load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

LEROBOT = "LeRobot in torch, 10 steps"
FIRST_CALLS = 10  # which are slower, and do not count
Window = dict[str, NDArray[np.float32] | NDArray[np.uint8]]


@dataclass(frozen=True)
class Calls:
    """Milliseconds of the processor for a sequence, and the resident memory of the process, at the end and at most."""

    p50: float
    p99: float
    megabytes: float
    peak: float


def measure_calls(bundle: Path, observations: Path, rivals: Sequence[Contender], count: int) -> dict[str, Calls]:
    """Return the calls of all contenders that are policies of a bundle, by their name."""
    return {
        contender.name: _in_process(_measure_bundle, bundle, observations, contender, count)
        for contender in rivals
        if contender.plan is not None
    }


def measure_lerobot_calls(folder: Path, observations: Path, count: int) -> Calls:
    """Return the calls of LeRobot's own policy in `folder`."""
    return _in_process(_measure_lerobot, folder, observations, count)


def _in_process(measure: Callable[..., Calls], *arguments: object) -> Calls:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def _measure_bundle(bundle: Path, observations: Path, contender: Contender, count: int) -> Calls:
    assert contender.plan is not None and contender.precision is not None
    shaping = Clip(-1.0, 1.0) if contender.clipped else None
    with load(bundle, precision=contender.precision, backend=OnnxRuntime(threads=1, spinning=False)) as sampler:
        plan = compile_plans(sampler, (contender.plan,), shaping)[0]

        def call(window: Window) -> None:
            sample_sequences(sampler, plan, [SequenceRequest(window, 0)])

        return _measure(call, observations, count)


def _measure_lerobot(folder: Path, observations: Path, count: int) -> Calls:
    from benchmarks.policy.lerobot_loop import LeRobotLoop

    loop = LeRobotLoop(folder)

    def call(window: Window) -> None:
        loop.act({name: value[-1] for name, value in window.items()}, 0)

    return _measure(call, observations, count)


def _measure(call: Callable[[Window], object], observations: Path, count: int) -> Calls:
    seen, seconds = _windows(observations), list[float]()
    for _ in range(FIRST_CALLS):
        call(next(seen))
    for _ in range(count):
        window, began = next(seen), time.process_time()
        call(window)
        seconds.append(time.process_time() - began)
    p50, p99 = 1e3 * np.quantile(seconds, [0.5, 0.99])
    return Calls(float(p50), float(p99), _megabytes("VmRSS"), _megabytes("VmHWM"))


def _windows(observations: Path) -> Iterator[Window]:
    """Yield the observations that were calibrated on, repeatedly."""
    with np.load(observations) as file:
        arrays = dict(file)
    count = len(next(iter(arrays.values())))
    return cycle({name: array[place] for name, array in arrays.items()} for place in range(count))


def _megabytes(fact: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(fact))
