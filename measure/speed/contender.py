"""A timed contender: its graphs, their feeds, and how often a call runs each graph."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fewstep.plans.plan import DENOISER
from fewstep.runtime.backends.registry import ON_CPU


@dataclass(frozen=True)
class OnBackend:
    """A body of a bundle that a named backend loads, for a contender that does not run in onnxruntime on the CPU."""

    backend: str
    bundle: Path
    body: str


@dataclass(frozen=True)
class TimedGraph:
    """A graph for onnxruntime, or a network's body on another backend, with its inputs. A call of the contender runs it
    `steps` times. `wide_sums`: see `OnnxRuntime.open`."""

    graph: Path | OnBackend
    feeds: Mapping[str, NDArray[Any]]
    steps: int = 1
    network: str = DENOISER
    wide_sums: bool = False


@dataclass(frozen=True)
class TimedContender:
    """A contender: the graphs that run the steps of its plan. A call runs each graph as often as the plan does."""

    name: str
    graphs: tuple[TimedGraph, ...]

    @property
    def batch(self) -> int:
        return max(len(array) for graph in self.graphs for array in graph.feeds.values())

    @property
    def is_on_cpu(self) -> bool:
        """Whether its processor time is all of its work."""
        graphs = (graph.graph for graph in self.graphs)
        return all(isinstance(graph, Path) or graph.backend in ON_CPU for graph in graphs)

    @property
    def steps(self) -> dict[str, int]:
        """The number of steps of a call, in all ("") and for each network."""
        counts = {"": sum(graph.steps for graph in self.graphs)}
        for graph in self.graphs:
            counts[graph.network] = counts.get(graph.network, 0) + graph.steps
        return counts
