"""A backend loads graphs of a bundle into one inference engine, runs them, and says which bodies suit it."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.arrays import Arrays as Arrays
from fewstep.runtime.bundle.manifest import Body, GraphEntry, StepGraph
from fewstep.runtime.bundle.reading import EXPORT_AGAIN, Bundle

CONDITIONER, PROLOGUE = "conditioner", "prologue"  # the names of those graphs, where bodies have theirs
AHEAD = (CONDITIONER, PROLOGUE)  # what runs before the first step


class LoadedGraph(Protocol):
    """A loaded graph: named inputs to named outputs. May be called from several threads at once."""

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]: ...


class Backend(Protocol):
    """An inference engine and its settings."""

    @property
    def bodies(self) -> Mapping[str, tuple[str, ...]]:
        """Per precision the names of the bodies that it runs well, the best first."""
        ...

    def load(self, bundle: Bundle, name: str) -> LoadedGraph:
        """The body `name` of a bundle, or what runs AHEAD, ready to run: its graph, or an engine built from it.

        UserError for a graph that cannot be loaded. A graph that runs ahead is called with any number of rows.
        """
        ...


def graph_names(name: str, body: Body) -> dict[str, StepGraph]:
    """The graphs of a body by name: the last has the body's own, those before it "BODY/0", "BODY/1" and so on."""
    return {name: body.graph} | {f"{name}/{number}": graph for number, graph in enumerate(body.graphs[:-1])}


def find_graph(bundle: Bundle, name: str) -> GraphEntry:
    """The graph of this name of a body (`graph_names`), or one that runs ahead."""
    if name not in AHEAD:
        body, _, number = name.partition("/")
        return bundle.body(body).graphs[int(number or -1)]
    ahead = bundle.manifest.prologue if name == PROLOGUE else bundle.manifest.conditioner
    if ahead is None:
        raise UserError(f"{bundle.path} has no {name}", EXPORT_AGAIN)
    return ahead
