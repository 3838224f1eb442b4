"""A network of a bundle, loaded with one body and one inference engine: what it is fed, and one call of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan, Step
from fewstep.plans.tokens import TokenPlan, TokenStep
from fewstep.runtime import mixed_plans
from fewstep.runtime.backends import CONDITIONER, PROLOGUE, LoadedGraph
from fewstep.runtime.bundle.manifest import CARRIED, NAMED, NEXT, Body, GraphEntry
from fewstep.runtime.bundle.reading import EXPORT_AGAIN, Bundle
from fewstep.runtime.feeds import BodyInputs, check_times, feeds, plan_blocks
from fewstep.runtime.feeds import tensor_name as name_of
from fewstep.runtime.lora.adapted import AdaptedGraph, Adapters, Stamps, slot_inputs, stamps
from fewstep.runtime.lora.file import lora_of
from fewstep.runtime.lora.fill import MERGE
from fewstep.runtime.prologues import Arrays, LastRows
from fewstep.runtime.request import Request, slots_of
from fewstep.runtime.sizes import output_shape, x_dtype
from fewstep.runtime.slots import Carrying, Slots
from fewstep.runtime.token_planning import check_ids, refuse_for_tokens, vocabulary_of
from fewstep.runtime.tokens import Ids, TokenNetwork, TokenState, execute_tokens

Array = NDArray[np.floating[Any]]
Float32 = NDArray[np.float32]
T = TypeVar("T", bound="LoadedNetwork")
ADAPTED_KEPT = 4  # networks with adapters, whose files may be large
BranchValues = Callable[[str], dict[str, NDArray[Any]]]  # conditions of a branch by name


@dataclass(frozen=True, repr=False)
class LoadedNetwork:
    """`denoiser` is the body's last graph, `earlier` are those before it, and `nulls` the null values of conditions
    that lie in files, by name."""

    bundle: Bundle
    body: Body
    denoiser: LoadedGraph
    prologue: LoadedGraph | None
    earlier: tuple[LoadedGraph, ...] = ()
    nulls: Arrays = field(default_factory=dict)
    conditioner: LoadedGraph | None = None

    @cached_property
    def inputs(self) -> BodyInputs:
        """The body's inputs but x."""
        return BodyInputs.of(self.bundle, self.body)

    @cached_property
    def last(self) -> LastRows:
        """What the conditioner made last."""
        return LastRows()

    def called(self, x: Array, fed: Arrays, group: int) -> tuple[Float32, Arrays]:
        """The output [N, heads * C, ...] for x [N, *x_shape] at a step of a range group, and all it returns by name."""
        graph = self.graphs[0 if len(self.graphs) == 1 else self.body.serving(group)]
        others = fed if len(self.graphs) == 1 else {name: fed[name] for name in graph.inputs if name in fed}
        returned = graph.loaded({graph.x: np.ascontiguousarray(x, x_dtype(self.bundle.manifest)), **others})
        output = returned.get(graph.output)
        if output is None or output.shape != (len(x), *output_shape(self.bundle.manifest, x.shape[1:])):
            raise UserError(f"{self.bundle.path}: {graph.file} is not what the manifest says", EXPORT_AGAIN)
        return output, returned

    def evaluated(self, x: NDArray[Any], block: Arrays, group: int) -> Float32:
        """The output for x [N, *x_shape] where a block [N, ...] has times and conditions. What it carries is zeros."""
        fed = feeds(self.bundle, self.inputs, self.prologue, [block], [group], self.conditioner, self.last)(0)
        for each in self.bundle.manifest.carried:
            fed |= {CARRIED + each.name: np.zeros((len(x), *each.shape), each.dtype)}
        return self.called(x, fed, group)[0]

    def own_feeds(
        self, plan: Plan | TokenPlan, samples: int, values: BranchValues
    ) -> Callable[[int], dict[str, NDArray[Any]]]:
        """The inputs but x at each step of a compiled plan. What makes its rows runs once, now."""
        for has_second in {step.to is not None for step in plan.steps}:
            check_times(has_second, self.inputs.has_second_time)
        blocks = plan_blocks(plan, values, samples)
        groups = [step.group for step in plan.steps]
        return feeds(self.bundle, self.inputs, self.prologue, blocks, groups, self.conditioner, self.last)

    def carrying(self, plan: Plan, samples: int, values: BranchValues, carried: Slots | None) -> Carrying:
        """The network with all that it returns, for `execute`; None begins what it carries with zeros."""
        fed = self.own_feeds(plan, samples, values)

        def evaluate(index: int, step: Step, u: Array, taken: Arrays) -> tuple[list[Array], Arrays]:
            x = u if len(step.branches) == 1 else np.concatenate([u] * len(step.branches))
            ports = {CARRIED + name: array for name, array in taken.items()}
            output, returned = self.called(x, {**fed(index), **ports}, step.group)
            made = {bank.name: returned[NEXT + bank.name] for bank in plan.banks}
            named = {each.name: returned[NAMED + each.name] for each in self.bundle.manifest.outputs}
            return mixed_plans.split_outputs(output, step), made | named

        return Carrying(evaluate, slots_of(plan, carried, self.bundle.manifest, samples))

    def token_states(self, plan: TokenPlan, request: Request) -> Iterator[TokenState]:
        """A run along a token plan."""
        refuse_for_tokens(request.settings, plan, self.reads_time)
        seeds, mask = request.seeds, vocabulary_of(request.takes).mask
        known = check_ids(request.settings.get("given"), plan, request.takes, len(seeds))
        network = self.token_network(plan, len(seeds), request.values)
        return execute_tokens(plan, network, seeds, mask, known, self.reads_time)

    def token_network(self, plan: TokenPlan, samples: int, values: BranchValues) -> TokenNetwork:
        """The denoiser along a compiled token plan, as the executor calls it."""
        fed = self.own_feeds(plan, samples, values)

        def evaluate(index: int, step: TokenStep, ids: Ids) -> Float32:
            return self.called(np.concatenate([ids] * len(step.branches)), fed(index), step.group)[0]

        return evaluate

    @property
    def reads_time(self) -> bool:
        """Whether the network, or what makes its rows, takes the time."""
        return self.inputs.has_time

    def adapted(self: T, adapters: Adapters | None) -> T:
        """This network with LoRA files in its slots, at their strengths; what `sample` takes as `adapters`.

        The last few are kept, and a file that changed is read again. Threads may share those of different adapters.
        UserError where a file does not fit, and for an engine other than onnxruntime on the CPU.
        """
        if not adapters:
            return self
        key = stamps(adapters)
        kept: T | None = self._adapted.get(key)
        if kept is not None:
            return kept
        if self.bundle.manifest.networks:
            raise UserError(f"{self.bundle.path} has several networks, and slots are the denoiser's alone", MERGE)
        if not getattr(self.denoiser, "takes_optional", False):
            raise UserError("this engine takes no LoRA files at run time", f"use onnxruntime on the CPU, or {MERGE}")
        loras = [lora_of(Path(path), strength) for path, strength in adapters.items()]
        slots = slot_inputs(self.bundle, loras)
        with_slots = {
            name: AdaptedGraph(graph, slots[name])
            for name, graph in ((CONDITIONER, self.conditioner), (PROLOGUE, self.prologue))
            if graph is not None and slots.get(name)
        }
        denoiser, *earlier = (AdaptedGraph(each, slots.get("body", {})) for each in (self.denoiser, *self.earlier))
        if len(self._adapted) >= ADAPTED_KEPT:
            self._adapted.clear()
        changes: Any = {"denoiser": denoiser, "earlier": tuple(earlier), **with_slots}
        adapted: T = self._adapted.setdefault(key, replace(self, **changes))
        return adapted

    @cached_property
    def _adapted(self) -> dict[Stamps, Any]:
        """The last networks with adapters."""
        return {}

    @cached_property
    def graphs(self) -> list["LoadedStep"]:
        """The body's graphs."""
        loaded = (*self.earlier, self.denoiser)
        return [LoadedStep.of(*each) for each in zip(loaded, self.body.graphs, strict=True)]


class LoadedStep(NamedTuple):
    """A graph of the body, and the names of its inputs and its output."""

    loaded: LoadedGraph
    file: str
    x: str
    output: str
    inputs: tuple[str, ...]

    @classmethod
    def of(cls, loaded: LoadedGraph, graph: GraphEntry) -> "LoadedStep":
        inputs = tuple(each.name for each in graph.inputs)
        return cls(loaded, graph.file, name_of(graph, "x"), name_of(graph, "output"), inputs)
