"""The graphs that make a body's rows, run one after the other as the runtime does."""

from collections.abc import Callable, Mapping

from fewstep.graph.graph import Array, Graph
from fewstep.graph.prologue import PreparedDenoiser
from fewstep.graph.session import open_session

Run = Callable[[Mapping[str, Array]], dict[str, Array]]


def open_rows(prepared: PreparedDenoiser, opened: Callable[[Graph], Run] = open_session) -> Run:
    """From the inputs of the whole graph to the rows, and whatever else `opened` sessions return: one row a sample."""
    runs = [opened(graph) for graph in (prepared.conditioner, prepared.prologue) if graph is not None]

    def rows(feeds: Mapping[str, Array]) -> dict[str, Array]:
        results: dict[str, Array] = {}
        for run in runs:
            results |= run({**feeds, **results})
        return results

    return rows
