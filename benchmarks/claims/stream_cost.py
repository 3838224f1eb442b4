"""What a stream costs beside its network: CPU time of a frame, calls on a still scene, objects that stay.

A bundle's prologue runs as it is. Its body is replaced by one multiplication, whose time is taken out. Four frames are
on their way. CPU time is the median of five runs on one thread.
"""

import gc
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.bar import Bar
from fewstep.literature.streams import Similar, Stream, stream
from fewstep.plans.guidance import Residual
from fewstep.runtime import Sampler

PLAN, STRENGTH = "lcm:7", 0.6  # four steps
RUNS, FRAMES = 5, 1000
SHAPE, LONG = (4, 64, 64), 100_000  # of a sample; frames of the test of memory
STILL, OBJECTS = 0.1, 300.0  # bars: calls of a still scene, as a share; blocks that stay
WAYS: Mapping[str, dict[str, Any]] = {
    "a frame": {},
    "a frame with residual guidance": {"guidance": Residual(1.4)},
    "a frame with the similarity filter": {"similar": Similar()},
}


@dataclass
class Scaled:
    """A network of one multiplication, and the CPU seconds that it took."""

    output: str
    seconds: float = 0.0
    calls: int = field(default=0)

    def __call__(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        began = time.process_time()
        made = {self.output: feeds["x"] * np.float32(0.1)}
        self.seconds, self.calls = self.seconds + time.process_time() - began, self.calls + 1
        return made


def scaled(sampler: Sampler, shape: tuple[int, ...]) -> tuple[Sampler, Scaled]:
    """The sampler for samples of a shape, with that network."""
    (output,) = (tensor.name for tensor in sampler.body.graph.outputs)
    manifest, network = msgspec.structs.replace(sampler.bundle.manifest, x_shape=shape), Scaled(output)
    return sampler.changed(graph=network, bundle=replace(sampler.bundle, manifest=manifest)), network


def opened(sampler: Sampler, mode: Literal["batch", "sequence"] = "batch", **options: Any) -> Stream:
    takes = sampler.bundle.manifest.conditions
    condition = {each.name: np.zeros((1, *each.shape), each.dtype) for each in takes}
    return stream(sampler, plan=PLAN, strength=STRENGTH, condition=condition, mode=mode, **options)


def host_ms(sampler: Sampler, network: Scaled, film: NDArray[np.float32], **options: Any) -> float:
    """CPU milliseconds of a frame beside the network's, once all lanes are full."""

    def run() -> float:
        frames = opened(sampler, **options)
        for frame in film:
            frames.push(frame)
        network.seconds, began = 0.0, time.process_time()
        for number in range(FRAMES):
            frames.push(film[number % len(film)])
        return 1000 * (time.process_time() - began - network.seconds) / FRAMES

    return statistics.median(run() for _ in range(RUNS))


def still_share(sampler: Sampler, network: Scaled, frame: NDArray[np.float32], count: int = 1000) -> float:
    """Calls of a still scene with the filter over those without it, each of one frame at one step."""
    calls = []
    for similar in (None, Similar()):
        network.calls = 0
        list(opened(sampler, "sequence", similar=similar)([frame] * count))
        calls.append(network.calls)
    return calls[1] / calls[0]


def objects_left(sampler: Sampler, film: NDArray[np.float32], count: int) -> float:
    """Blocks of memory that so many frames leave behind."""
    frames = opened(sampler, similar=Similar(0.9, 3))
    for number in range(1100):  # from then on the latencies that are kept are as many as ever
        frames.push(film[number % len(film)])
    gc.collect()
    before = sys.getallocatedblocks()
    for number in range(count):
        frames.push(film[number % len(film)])
    gc.collect()
    return float(sys.getallocatedblocks() - before)


def measure(sampler: Sampler, shape: tuple[int, ...] = SHAPE, count: int = LONG) -> list[Bar]:
    sampler, network = scaled(sampler, shape)
    film = np.random.default_rng(0).uniform(-1, 1, (40, *shape)).astype(np.float32)
    return [
        *(Bar(name, host_ms(sampler, network, film, **way), None, "ms") for name, way in WAYS.items()),
        Bar("calls of a still scene", 100 * still_share(sampler, network, film[0]), 100 * STILL, "%"),
        Bar(f"blocks after {count} frames", objects_left(sampler, film, count), OBJECTS, ""),
    ]
