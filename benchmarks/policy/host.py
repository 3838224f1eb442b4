"""What a call and a tick of a policy cost in Python: `python -m benchmarks.policy.host BUNDLE --conditions FILE.npz`.

A call's graphs answer at once with what they returned first, so that its host alone is left. Ticks follow each other
at once, or behind a pause; a sort of 30 numbers behind the same pause shows what the machine forgets meanwhile. Least
values are of the code, and other programs disturb them least.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import table
from benchmarks.policy.call import windows
from fewstep.robots.control import PolicyRunner, Rhythm, SequenceRequest, VirtualClock, sample_sequences
from fewstep.runtime import Sampler, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

PAUSE, RATE = 0.0125, 80.0  # of a tick


@dataclass
class Kept:
    """A graph that runs once."""

    loaded: Callable[[Mapping[str, NDArray[Any]]], Any]
    returned: list[Any] = field(default_factory=list)

    def __call__(self, feeds: Mapping[str, NDArray[Any]]) -> Any:
        self.returned = self.returned or [self.loaded(feeds)]
        return self.returned[0]


def row(name: str, calls: int, call: Callable[[], object], before: Callable[[], object] = int) -> tuple[str, ...]:
    """The least and the median of the calls, in microseconds; `before` is not counted."""
    seconds = []
    for _ in range(calls):
        before()
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return name, str(calls), f"{1e6 * min(seconds):.3g}", f"{1e6 * np.median(seconds):.3g}"


def rows(sampler: Sampler, plan: str, window: Mapping[str, NDArray[Any]], task: list[str]) -> list[tuple[str, ...]]:
    kept = {
        name: Kept(graph) for name in ("conditioner", "prologue", "graph") if (graph := getattr(sampler.of(), name))
    }
    without, compiled = sampler.changed(**kept), sampler.compile(plan)
    former = sample_sequences(sampler, compiled, [SequenceRequest(window, 0)])[0][0]
    request = SequenceRequest(window, 0, former, 1)
    clock = VirtualClock()
    with PolicyRunner(without, Rhythm(RATE, plan), clock=clock) as runner:
        runner.reset(0, {name: window[name] for name in task})
        seen = {name: array[-1] for name, array in window.items() if name not in task}

        def tick() -> None:
            clock.advance(1 / RATE)
            runner.act(seen)

        tick()
        numbers = list(range(30, 0, -1))
        return [
            row("a call without its graphs", 2000, lambda: sample_sequences(without, compiled, [request])),
            row("`act`, at once", 2000, tick),
            row("`act`, behind a pause", 300, tick, lambda: time.sleep(PAUSE)),
            row("a sort, at once", 2000, lambda: sorted(numbers)),
            row("a sort, behind a pause", 300, lambda: sorted(numbers), lambda: time.sleep(PAUSE)),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--plan", default="dpmpp_2m:2")
    parser.add_argument("--conditions", type=Path, help="an .npz file of observations")
    parser.add_argument("--task", nargs="*", default=["task"], help="conditions of an episode")
    given = parser.parse_args()
    sampler = load(given.bundle, precision="int8", backend=OnnxRuntime(threads=1, spinning=False))
    window = windows(sampler.bundle, given.conditions)[0]
    print(table(("what", "times", "least, us", "median, us"), rows(sampler, given.plan, window, given.task)))


if __name__ == "__main__":
    main()
