"""The task of a calibration: everything that is known and checked before the first trajectory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import prod
from typing import Any

from fewstep.calibration.lowering.quantize import select_ops_to_lower
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.policy import POLICY, CalibrationPolicy
from fewstep.calibration.precision.bound import Bound
from fewstep.calibration.ranges.observe import tensors_to_observe
from fewstep.calibration.ranges.row_observer import are_large, row_bytes
from fewstep.graph.files import io
from fewstep.graph.files.stored_graphs import load_stored
from fewstep.graph.graph import Graph
from fewstep.graph.passes.stored_weights import select_stored_ops
from fewstep.graph.selection import WeightedOp
from fewstep.measure.judges.judge import Judge
from fewstep.measure.rollouts.conditions_file import ConditionRecords, GivenConditions
from fewstep.measure.rollouts.record_sizes import select_records
from fewstep.measure.rollouts.recorded_run import runs_per_trajectory
from fewstep.measure.rollouts.row_by_row import with_row_by_row_prologue
from fewstep.measure.rollouts.trajectories import BATCH, BodyCall, roll_out
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.errors import UserError
from fewstep.plans.plan import DENOISER
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.sampling.execute import StepState
from fewstep.runtime.sampling.lazy_graphs import LazyGraph
from fewstep.runtime.sampling.sampler import Sampler

MEMORY = 2**26  # bytes of activations at once


@dataclass(frozen=True)
class Task:
    """The inputs of the calibration of one network: the float denoiser, the plan that it will run, and the targets.

    sampler: the sampler of the float32 body of one network.
    prepared: the graph of that body.
    plan: the plan to calibrate along. It has a single range group until the activations are counted.
    edges: the values of lambda between the range groups.
    elements: the number of elements of x at the largest of the sizes.
    targets: the targets for which int8 graphs are made.
    seeds: one for each trajectory.
    operations: names of the operations that will be in int8.
    conditions: one record for each seed; None for random conditions.
    prompts: the texts that the records encode, one for each; empty if they are from a file.
    held_out: the records that judge bodies, with their prompts; None for those of the trajectories.
    sizes: the sizes of x, one for each seed; empty if they follow from the conditions, or are the default.
    threads: the threads of one evaluation; 0 means `default_threads`, or, with workers, one per worker.
    bound: the bound that the search for a precision map has to meet.
    command: returns the command line that repeats this calibration for the targets of these names.
    refused: errors of bodies that cannot be made, by body name.
    network: the name of the network whose steps of the plan are followed.
    all_networks: the sampler of all networks; None if there is only one.
    random: names of conditions with random values (`conditions_file.GivenConditions`).
    fixed_conditions: names of those that have one value on every trajectory.
    kept_operations: names of operations that the user keeps in float.
    judge: the user's measure of samples; None to decide by PSNR.
    policy: the thresholds by which calibration decides.
    no_floats: whether every float tensor is counted, as targets without floats require.
    weights_only: whether a target quantizes weights alone.
    """

    sampler: Sampler
    prepared: Graph
    plan: AnyPlan
    edges: tuple[float, ...]
    elements: int
    targets: tuple[Target, ...] = ()
    seeds: range = range(0)
    operations: tuple[str, ...] = ()
    conditions: ConditionRecords | None = None
    prompts: tuple[str, ...] = ()
    held_out: GivenConditions | None = None
    sizes: tuple[Mapping[str, int], ...] = ()
    threads: int = 0
    bound: Bound | None = None
    command: Callable[[Sequence[str]], str] = ",".join
    refused: Mapping[str, UserError] = field(default_factory=dict)
    network: str = DENOISER
    all_networks: Sampler | None = None
    no_floats: bool = False
    weights_only: bool = False
    random: tuple[str, ...] = ()
    fixed_conditions: tuple[str, ...] = ()
    kept_operations: tuple[str, ...] = ()
    judge: Judge | None = None
    policy: CalibrationPolicy = POLICY

    @cached_property
    def graph_sha256(self) -> str:
        """The SHA-256 of the float32 body's graph, by which ranges and checkpoints identify it."""
        bundle = self.sampler.bundle
        return io.sha256(bundle.graph(self.sampler.body.graph), bundle.path)

    @cached_property
    def tensors(self) -> tuple[str, ...]:
        """The names of the tensors whose values calibration observes."""
        return tensors_to_observe(self.prepared, self.no_floats)

    @property
    def judging(self) -> GivenConditions:
        """The records and prompts that judge bodies."""
        return self.held_out or GivenConditions(self.conditions, prompts=self.prompts)

    @property
    def held_out_count(self) -> int | None:
        """The number of given records that judge bodies and give no ranges; None without given records."""
        if not (records := self.judging.records):
            return None
        return len(next(iter(records.values()))) if self.judging.is_held_out else 0

    @property
    def judged_conditions(self) -> dict[str, Any]:
        """The fields of a trial on the conditions that judged it."""
        return {
            "random_conditions": self.random,
            "fixed_conditions": self.fixed_conditions,
            "held_out": self.held_out_count,
            "given": self.judging.digest or None,
            "calibrated": self.judging.calibrated,
        }

    @property
    def quantizes_activations(self) -> bool:
        """Whether a target quantizes activations, whose ranges have to be measured."""
        return any(target.scheme.weight_bits is None for target in self.targets)

    @property
    def is_large(self) -> bool:
        """True if the activations of BATCH samples exceed MEMORY, or each row is measured before the next one runs
        (`are_large`). All samples are then processed one at a time."""
        if are_large(self.prepared, self.tensors):
            return True
        branches = max(len(step.branches) for step in self.plan.steps)
        usual = prod(self.sampler.bundle.manifest.x_shape)
        return MEMORY * usual // self.elements < BATCH * branches * row_bytes(self.prepared, self.tensors)

    @cached_property
    def ops_with_weights(self) -> tuple[tuple[WeightedOp, ...], ...]:
        """The operations whose weights are rounded, in up to three parts: those selected for int8, then those that only
        targets without float operations quantize, then those whose weights alone are. The weights of a part are thus
        the same whether or not the parts after it exist."""
        usual: tuple[WeightedOp, ...] = ()
        with suppress(UserError):  # a task without operations is refused where a target needs one
            usual = select_ops_to_lower(self.prepared)
        further = select_ops_to_lower(self.prepared, no_floats=True) if self.no_floats else ()
        stored = select_stored_ops(self.prepared) if self.weights_only else ()
        parts, codes = list[tuple[WeightedOp, ...]](), set[str]()
        for ops in (usual, further, stored):
            parts.append(tuple(op for op in ops if op.code not in codes))
            codes.update(op.code for op in ops)
        return tuple(part for part in parts if part)

    def with_all_networks(self, sampler: Sampler) -> Sampler:
        """Return the sampler of all networks, in which `sampler` replaces the task's network."""
        all_networks = self.all_networks
        return sampler if all_networks is None else all_networks.with_network(self.network, sampler.network())

    def select(self, place: slice) -> "Task":
        """Return the task with some of its trajectories."""
        rows = None if self.conditions is None else select_records(self.conditions, place)
        return replace(self, seeds=self.seeds[place], conditions=rows, sizes=self.sizes[place])

    def run_trajectories(
        self, graph: LoadedGraph, on_end: Callable[[StepState, ConditionRecords], object] | None = None
    ) -> Iterator[BodyCall]:
        """Run `graph` instead of the float32 body along the plan, and yield every evaluation. Up to BATCH trajectories
        run at once. `on_end` is that of `roll_out`."""
        sampler = self.with_all_networks(self.sampler.with_network_parts(graph=graph))
        along = partial(roll_out, sizes=self.sizes, network=self.network, on_end=on_end)
        return along(sampler, self.plan, self.seeds, conditions=self.conditions, runs=runs_per_trajectory(self.plan))


def load_task(all_networks: Sampler, network: str, plan: AnyPlan, edges: tuple[float, ...]) -> Task:
    """Load the float32 graph of one network, and return its task without targets and trajectories."""
    sampler = all_networks.select_network(network)
    if isinstance(graph := sampler.network().graph, LazyGraph):
        sampler = sampler.with_network_parts(bundle=graph.bundle)  # a `HashOnceBundle`, which hashes each file once
    return Task(
        sampler=with_row_by_row_prologue(sampler),
        prepared=load_stored(sampler.bundle, sampler.body.graph),
        plan=plan,
        edges=edges,
        elements=prod(sampler.bundle.manifest.x_shape),
        network=network,
        all_networks=all_networks if len(all_networks.denoiser.networks) > 1 else None,
    )
