"""Backends: a backend loads graphs of a bundle into one inference engine, runs them, and ranks the bodies for it."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.arrays import Arrays as Arrays
from fewstep.runtime.bundle.manifest import Body, GraphEntry, StepGraph
from fewstep.runtime.bundle.networks import shared_graphs
from fewstep.runtime.bundle.reading import Bundle

CONDITIONER, PROLOGUE = "conditioner", "prologue"  # names of the graphs that run once, used like the names of bodies
RUN_ONCE = (CONDITIONER, PROLOGUE)  # the graphs that run before the first step


class LoadedGraph(Protocol):
    """A loaded graph: maps named inputs to named outputs. Several threads may call it at once."""

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]: ...


class Backend(Protocol):
    """An inference engine together with its settings, which loads the graphs of bundles."""

    @property
    def bodies(self) -> Mapping[str, tuple[str, ...]]:
        """For each precision, the names of the bodies that it runs well, the best first."""
        ...

    def load(self, bundle: Bundle, name: str) -> LoadedGraph:
        """Load the body `name` of a bundle, or a graph of RUN_ONCE: its graph, or an engine that was built from it.

        A graph of RUN_ONCE accepts any number of rows. Raises UserError for a graph that cannot be loaded.
        """
        ...


class CompanionEngine(Protocol):
    """An inference engine that also runs the text encoder and the autoencoder of a bundle."""

    def load_companion(self, bundle: Bundle, name: str) -> LoadedGraph:
        """Load a graph of the text encoder or the autoencoder, by its name. Raises UserError if it cannot be loaded."""
        ...


def graph_names(name: str, body: Body) -> dict[str, StepGraph]:
    """Return the graphs of a body by name. The last one has the body's name, and those before it are "BODY/0",
    "BODY/1", ..."""
    return {name: body.graph} | {f"{name}/{number}": graph for number, graph in enumerate(body.graphs[:-1])}


def find_graph(bundle: Bundle, name: str) -> GraphEntry:
    """Return the graph of a body by its name (`graph_names`), or a shared graph."""
    shared = shared_graphs(bundle.manifest)
    if name in shared:
        return shared[name]
    if name in RUN_ONCE:
        raise UserError(f"{bundle.path} has no {name}", bundle.export_again)
    body, _, number = name.partition("/")
    return bundle.body(body).graphs[int(number or -1)]


def body_with_graph(bundle: Bundle, name: str) -> Body | None:
    """Return the body of a graph by its name, or a body that runs this graph instead of a shared one; None for a graph
    that all bodies share."""
    shared = shared_graphs(bundle.manifest).get(name)
    if shared is None:
        return bundle.body(name.partition("/")[0])
    bodies = bundle.manifest.bodies.values()
    return next((body for body in bodies if name in body.replaces and body.replaces[name].file == shared.file), None)
