"""Contenders in processes of their own that take turns: the wall time and the processor's time of each call.

The processor's time depends little on other programs, so its ratios hold on a machine that is shared. Waiting threads
of a contender count too.
"""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from statistics import median
from time import perf_counter, process_time

WARM = 2  # calls ahead of the first turn

Call = Callable[[], object]
Opener = Callable[[], Call]  # pickled to the process that calls it


@dataclass(frozen=True)
class Times:
    """Seconds of calls, by turn: each is the median of a turn."""

    wall: tuple[float, ...]
    processor: tuple[float, ...]

    def against(self, other: "Times") -> tuple[float, float]:
        """How many times as fast as the other: by wall time and by the processor's time, medians over turns."""
        walls = median(theirs / mine for mine, theirs in zip(self.wall, other.wall, strict=True))
        return walls, median(theirs / mine for mine, theirs in zip(self.processor, other.processor, strict=True))


def in_turns(openers: Mapping[str, Opener], rounds: int, seconds: float) -> dict[str, Times]:
    """Each contender's times: `rounds` turns of about `seconds` each, at least one call. Only one runs at a time."""
    context = multiprocessing.get_context("spawn")
    children: dict[str, tuple[Connection, BaseProcess]] = {}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in openers}
    try:
        for name, opener in openers.items():
            ours, theirs = context.Pipe()
            process: BaseProcess = context.Process(target=_serve, args=(theirs, opener), daemon=True)
            process.start()
            children[name] = ours, process
            theirs.close()
            ours.recv()  # it is open, and warm
        for turn in range(rounds):
            for name in list(openers)[:: 1 if turn % 2 else -1]:
                pipe, _ = children[name]
                pipe.send(seconds)
                found[name].append(pipe.recv())
    finally:
        for pipe, process in children.values():
            pipe.close()
            process.terminate()
            process.join()
    return {name: Times(*(tuple(column) for column in zip(*each, strict=True))) for name, each in found.items()}


def _serve(pipe: Connection, opener: Opener) -> None:
    """The child: a turn for each number of seconds that it is sent."""
    call = opener()
    for _ in range(WARM):
        call()
    pipe.send("ready")
    while True:
        try:
            seconds = pipe.recv()
        except EOFError:
            return
        pipe.send(_turn(call, seconds))


def _turn(call: Call, seconds: float) -> tuple[float, float]:
    call()  # another contender's numbers are in the caches
    times: list[tuple[float, float]] = []
    until = perf_counter() + seconds
    while not times or perf_counter() < until:
        wall, processor = perf_counter(), process_time()
        call()
        times.append((perf_counter() - wall, process_time() - processor))
    return _median([wall for wall, _ in times]), _median([processor for _, processor in times])


def _median(numbers: Sequence[float]) -> float:
    return float(median(numbers))
