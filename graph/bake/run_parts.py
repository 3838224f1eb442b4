"""The parts of a baked run that all of its steps share; `assemble.py` creates them once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewstep.graph.bake.batch import RunBatch
from fewstep.graph.bake.carried import CarriedBank
from fewstep.graph.bake.draws import Draws
from fewstep.graph.bake.features import FeatureSlots
from fewstep.graph.bake.hold import HoldInputs
from fewstep.graph.bake.run_setup import SetupTensors
from fewstep.graph.bake.sample_space import SpaceBuilder
from fewstep.graph.builder import Builder
from fewstep.graph.graph import Graph
from fewstep.plans.any_plan import AnyPlan
from fewstep.runtime.bundle.manifest import GraphEntry


@dataclass(frozen=True)
class BakedNetwork:
    """A graph of the denoiser and its manifest entry. Its constants are named NAME/..."""

    name: str
    graph: Graph
    entry: GraphEntry


@dataclass(frozen=True)
class Run:
    """A run under construction.

    outer: the graph outside the steps.
    batch: the batch of the outer graph.
    networks: the body's graphs of all networks.
    network_of: the index of a step's graph among `networks`, for each step.
    setup: the tensors of each network that are computed once, before the steps.
    space: the builder of states of the sample space.
    sample: the shape of a state's row, with the batch.
    features: the slots of inner features, if the plan has light steps.
    """

    outer: Builder
    batch: RunBatch
    plan: AnyPlan
    networks: Sequence[BakedNetwork]
    network_of: Callable[[Any], int]
    setup: Mapping[str, SetupTensors]
    draws: Draws
    held: HoldInputs | None
    banks: Sequence[CarriedBank]
    space: SpaceBuilder
    sample: tuple[int | str, ...]
    features: FeatureSlots | None = None

    def network(self, step: Any) -> BakedNetwork:
        """Return the graph that runs a step."""
        return self.networks[self.network_of(step)]
