"""Work on arrays in threads: numpy, for the most part, and engines compute without holding the interpreter."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from fewstep.runtime.machine.cpu import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """The results of `work` on each item, in their order; raises what the first of them raises."""
    return list(imap_threads(work, items))


def imap_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The results of `work` on each item, in their order, each as soon as it and all before it are there."""
    with ThreadPoolExecutor(usable_cores()) as threads:
        yield from threads.map(work, items)


def run_with_prefetch(work: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Do `work` on each item, one after the other, while the next item is made. Two items are held at once, no more."""
    running: Future[object] | None = None
    with ThreadPoolExecutor(1) as behind:
        for item in items:
            if running is not None:
                running.result()  # raises what it raised
            running = behind.submit(work, item)
        if running is not None:
            running.result()
