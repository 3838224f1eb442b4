"""Work on arrays in threads. Engines, and most of numpy, compute without holding the interpreter's lock."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from fewstep.runtime.machine.cpu import usable_threads

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Apply `work` to each item in threads. Return the results in the order of the items. Raises the first exception of
    `work`."""
    return list(imap_threads(work, items))


def imap_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield the results of `work` on each item, in order, each as soon as it and all earlier ones are finished."""
    with ThreadPoolExecutor(usable_threads()) as threads:
        yield from threads.map(work, items)


def run_with_prefetch(work: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Call `work` on each item in turn, while the iterable already produces the next item. At most two items are in
    memory."""
    running: Future[object] | None = None
    with ThreadPoolExecutor(1) as executor:
        for item in items:
            if running is not None:
                running.result()  # raises the exception of `work`
            running = executor.submit(work, item)
        if running is not None:
            running.result()
