"""ONNX Runtime on the CPU with one thread for each row of the batch.

The operations between the matrix products of a small network are so short that two threads together take longer for
them than one thread. If each thread computes a different row instead, threads share no operation. So calls of several
rows are faster, above all in int8, and calls of one row are slower.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewstep.runtime.backends import RUN_ONCE, Arrays, LoadedGraph, find_graph
from fewstep.runtime.backends.checks import check_threads
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.consistency import BATCH
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.machine.cpu import default_threads


@dataclass(frozen=True)
class OnnxRuntimeRows:
    """ONNX Runtime's CPU provider, with the rows of a batch computed in parallel by one thread each. Each row's result
    is bitwise identical to that of a call with this row alone on one thread.

    threads: how many rows are computed at once; 0 means one per physical core. Conditioner and prologue use this number
        of threads for the whole batch.
    """

    threads: int = 0

    def __post_init__(self) -> None:
        check_threads(self.threads)

    @property
    def bodies(self) -> Mapping[str, tuple[str, ...]]:
        """For each precision, the names of the bodies that this backend runs well, the best first."""
        return OnnxRuntime().bodies

    def load(self, bundle: Bundle, name: str) -> LoadedGraph:
        graph = find_graph(bundle, name)
        threads = self.threads or default_threads()
        if name in RUN_ONCE or threads == 1 or any(port.shape[:1] != (BATCH,) for port in graph.outputs):
            return OnnxRuntime(threads=self.threads).load(bundle, name)
        split = frozenset(port.name for port in graph.inputs if port.shape[:1] == (BATCH,))
        return ParallelRows(OnnxRuntime(threads=1).load(bundle, name), split, threads, ThreadPoolExecutor(threads - 1))


@dataclass(frozen=True, eq=False)
class ParallelRows:
    """A loaded graph that computes the rows of a batch in parallel. Several threads may call it at once.

    graph: computes a row, in the thread that calls it.
    split: the inputs with a batch axis, whose rows are computed one by one. Other inputs are the same for all rows.
    threads: how many rows of a call run at once, one of them in the calling thread.
    helpers: the other threads.
    """

    graph: LoadedGraph
    split: frozenset[str]
    threads: int
    helpers: ThreadPoolExecutor
    takes_optional: bool = True  # whether optional inputs may be fed or left out

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        counts = {value.shape[:1] for name, value in feeds.items() if name in self.split}
        (count,) = next(iter(counts), ()) or (0,)
        if len(counts) > 1 or count < 2:
            return self.graph(feeds)  # a single row, or inputs that do not fit, which the engine explains
        results: list[dict[str, NDArray[np.float32]]] = [{} for _ in range(count)]
        waiting = deque(range(count))

        def compute_rows() -> None:
            try:
                for row in _take_rows(waiting):
                    results[row] = self.graph(self._select(feeds, row))
            except BaseException:  # also after an interrupt: no thread begins another row
                waiting.clear()
                raise

        helping = [self.helpers.submit(compute_rows) for _ in range(min(self.threads, count) - 1)]
        compute_rows()
        for session in helping:
            if not session.cancel():  # tasks that still wait for a thread are no longer needed
                session.result()
        return {name: np.concatenate([result[name] for result in results]) for name in results[0]}

    def _select(self, feeds: Arrays, row: int) -> Arrays:
        return {name: value[row : row + 1] if name in self.split else value for name, value in feeds.items()}


def _take_rows(waiting: deque[int]) -> Iterator[int]:
    """Yield the indices of rows that no thread has taken yet. Several threads may take rows at the same time."""
    while True:
        try:
            row = waiting.popleft()
        except IndexError:
            return
        yield row
