"""Carried tensors of a baked run. Each bank is one input and one output [rows, B, *shape]; the output is the input of
the next run.

A row is one branch of one slot. If a bank has a slot for each step, its rows are the branches of each step in order. If
it has one slot for the whole sample, its rows are the branches of the last step, which writes the slot. The first run
receives zeros.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from fewstep.graph.bake.features import features_of
from fewstep.graph.bake.metadata import BakedPort
from fewstep.graph.bake.step_alignment import branch_offset
from fewstep.graph.builder import Builder
from fewstep.graph.graph import BATCH, Value
from fewstep.plans.any_plan import AnyPlan, check_compiled
from fewstep.plans.continuation.carried_banks import bank_rows, entries_of
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Carried
from fewstep.runtime.kinds.graph_entry import CARRIED, NEXT

PORT = "carried"  # the meaning of these inputs and outputs


@dataclass
class CarriedBank:
    """The rows of one carried tensor while its baked run is being built.

    first: the first row that each step reads.
    writes: whether each step writes rows that the next run reads.
    source: the name of the baked file's input.
    parts: the names of the tensors written so far, [n, B, *shape] each, in row order.
    """

    tensor: Carried
    rows: int
    first: tuple[int, ...]
    writes: tuple[bool, ...]
    source: str = ""
    parts: list[str] = field(default_factory=list)

    @property
    def input_port(self) -> BakedPort:
        """The input of the baked file that takes the tensors written by the previous run."""
        return BakedPort(CARRIED + self.tensor.name, PORT, self._shape, self.tensor.dtype)

    @property
    def output_port(self) -> BakedPort:
        """The output of the baked file that returns the tensors to pass to the next run."""
        return BakedPort(NEXT + self.tensor.name, PORT, self._shape, self.tensor.dtype)

    def add_read(self, into: Builder, ends: tuple[str, str], name: str) -> str:
        """Add the nodes that slice the bank from row `ends[0]` up to but excluding row `ends[1]`. Return the name of
        the network's input [rows * B, *shape]. Both ends are names of tensors, int64 [1]."""
        axis = into.constant(np.array([0], np.int64), "axis_0")
        rows = into.node("Slice", (self.source, *ends, axis), f"{name}_rows")
        shape = into.constant(np.array([-1, *self.tensor.shape], np.int64), f"{name}_flat_shape")
        return into.node("Reshape", (rows, shape), f"{name}_now")

    def split_branches(self, into: Builder, made: str, branches: int, name: str) -> str:
        """Add a Reshape of the network's output for this bank to [branches, B, *shape]; return its name."""
        shape = into.constant(np.array([branches, -1, *self.tensor.shape], np.int64), f"{name}_apart_shape")
        return into.node("Reshape", (made, shape), f"{name}_apart")

    def value(self, name: str, branches: int) -> Value:
        """Return the Value of an output of `split_branches`."""
        return Value(name, np.dtype(self.tensor.dtype), (branches, BATCH, *self.tensor.shape))

    def finish(self, outer: Builder) -> None:
        """Add the run's output, the concatenation of all parts."""
        whole = self.parts[0]
        if len(self.parts) > 1:
            whole = outer.node("Concat", self.parts, f"{self.output_port.name}_rows", axis=0)
        outer.identity(whole, self.output_port.name)

    @property
    def _shape(self) -> tuple[int | str, ...]:
        return (self.rows, BATCH, *self.tensor.shape)


def banks_of(plan: AnyPlan, carried: Sequence[Carried]) -> list[CarriedBank]:
    """Return the carried tensors of a baked run; empty if the plan has none, or if it carries only the inner features
    of light steps. Raises UserError if their layout is not that of `plans.continuation`, for example if a step combines
    slots."""
    if not plan.banks or features_of(plan) is not None:
        return []
    plan = check_compiled(plan)
    tensors, banks, last = {tensor.name: tensor for tensor in carried}, [], plan.steps[-1]
    if plan.rolling_bank is not None:
        raise UserError(f"plan {plan.name!r} continues from run to run", "run the bundle: a baked file cannot do that")
    counts = [len(step.branches) for step in plan.steps]
    for number, bank in enumerate(plan.banks):
        tensor, rows = tensors.get(bank.name), [entries_of(step, number) for step in plan.steps]
        if tensor is None or rows != bank_rows(number, tensor.bank, len(rows)):
            what = f"plan {plan.name!r} combines, scales or reorders the stored tensors of {bank.name!r}"
            raise UserError(what, "run the bundle: a baked file cannot do that")
        first, count = tuple(accumulate(counts[:-1], initial=0)), sum(counts)
        if tensor.bank == "sample":
            first, count = tuple(branch_offset(step.branches, last.branches) for step in plan.steps), len(last.branches)
        if -1 in first:
            what = f"plan {plan.name!r} reads branches of {bank.name!r} in a different order than it writes them"
            raise UserError(what, "run the bundle: a baked file cannot do that")
        banks.append(CarriedBank(tensor, count, first, tuple(bool(writes) for _, writes in rows)))
    return banks
