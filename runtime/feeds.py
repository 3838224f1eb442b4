"""Collect the body's inputs for each call: times, conditions, prologue rows and the range group."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND, UNCOND
from fewstep.plans.plan import Plan
from fewstep.runtime import conditions
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.bundle.manifest import Body, Condition, GraphEntry, Role, TensorEntry
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.prologues import TIME, TO, Arrays, dealt_rows

Overrides = Mapping[str, Mapping[str, Any]]  # branch -> condition -> values, None for the null value

BRANCHES_FIX = "give branches={BRANCH: {CONDITION: VALUES}} (None for a null value)"


def branch_values(
    takes: Sequence[Condition],
    condition: conditions.ConditionValues | None,
    branches: Overrides | None,
    samples: int,
    nulls: Arrays = MappingProxyType({}),
) -> Callable[[str], dict[str, NDArray[Any]]]:
    """For each branch its conditions [samples, *shape]: "cond" as given, "uncond" null, others as `branches` says.

    `nulls` are the null values that lie in files, by condition.
    """
    given = conditions.check(takes, condition, samples)
    by_name = {each.name: each for each in takes}
    known: dict[str, dict[str, NDArray[Any]]] = {COND: given}
    branches = {} if branches is None else branches
    if not isinstance(branches, Mapping):
        raise UserError(f"branches {branches!r} is no mapping of branches to conditions", BRANCHES_FIX)
    for branch, overrides in branches.items():
        if not isinstance(overrides, Mapping):
            raise UserError(f"branch {branch!r} is {overrides!r}, no mapping of conditions to values", BRANCHES_FIX)
        for name in overrides:
            if name not in by_name:
                raise UserError(f"branch {branch!r} sets unknown condition {name!r}", f"set one of {list(by_name)}")
        unset = {name for name, values in overrides.items() if values is None}
        merged: dict[str, Any] = dict(condition or {}) | {n: v for n, v in overrides.items() if n not in unset}
        checked = conditions.check(takes, merged, samples)
        known[branch] = checked | {name: conditions.null(by_name[name], given[name], nulls) for name in unset}

    def values(branch: str) -> dict[str, NDArray[Any]]:
        if branch == UNCOND and branch not in known:
            known[branch] = {each.name: conditions.null(each, given[each.name], nulls) for each in takes}
        if branch not in known:
            raise UserError(
                f"the plan's guidance has a branch {branch!r}, and nothing says what its conditions are",
                f"give branches={{{branch!r}: {{CONDITION: VALUES}}}} (None for a null value)",
            )
        return known[branch]

    return values


def plan_blocks(
    plan: Plan, values: Callable[[str], dict[str, NDArray[Any]]], samples: int
) -> list[dict[str, NDArray[Any]]]:
    """For each step its conditions and times [branches * samples, ...], the branches one after the other."""
    joined: dict[tuple[str, ...], dict[str, NDArray[Any]]] = {}  # a condition may be an image: once for all steps
    blocks = []
    for step in plan.steps:
        if step.branches not in joined:
            parts = [values(branch) for branch in step.branches]
            joined[step.branches] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        block = dict(joined[step.branches])
        block[TIME] = np.full(len(step.branches) * samples, step.time, np.float32)
        if step.to is not None:
            block[TO] = np.full(len(step.branches) * samples, step.to, np.float32)
        blocks.append(block)
    return blocks


def feeds(
    bundle: Bundle,
    body: Body,
    prologue: LoadedGraph | None,
    blocks: Sequence[Arrays],
    groups: Sequence[int],
    conditioner: LoadedGraph | None = None,
) -> Callable[[int], dict[str, NDArray[Any]]]:
    """The inputs of the body but x for each block of values; `groups` are the range groups of the blocks."""
    by_input = {each.input: each.name for each in bundle.manifest.conditions}
    tensors = taken(body)
    group_names = shared_inputs(body)
    direct = [
        _inputs(tensors.values(), block, by_input) | {name: np.array([group], np.int64) for name in group_names}
        for block, group in zip(blocks, groups, strict=True)
    ]
    rows = [name for name, tensor in tensors.items() if tensor.role == "row"]
    if not rows:
        return direct.__getitem__
    dealt = dealt_rows(bundle, conditioner, prologue, blocks, rows)
    return lambda index: direct[index] | dealt(index)


def taken(body: Body) -> dict[str, TensorEntry]:
    """What a body takes, by name: its stages may take what its own graph, all in float, does not, such as the group."""
    graphs = (body.graph, *(stage.graph for stage in body.stages))
    return {tensor.name: tensor for graph in graphs for tensor in graph.inputs}


def shared_inputs(body: Body) -> list[str]:
    """Inputs that all samples of a call have in common: the range group."""
    return [name for name, tensor in taken(body).items() if tensor.role == "group"]


def told_two_times(bundle: Bundle, body: Body) -> bool:
    """Whether the network takes a second time: where to. A conditioner takes none."""
    prologue = () if bundle.manifest.prologue is None else bundle.manifest.prologue.inputs
    return any(tensor.role == "to" for tensor in (*taken(body).values(), *prologue))


def check_times(has_second: bool, bundle: Bundle, body: Body) -> None:
    """A network that is told two times needs a plan that names both, and the other way round."""
    told = told_two_times(bundle, body)
    if told and not has_second:
        raise UserError("this denoiser is told two times, and is given one", "use a solver such as ctm, or give to=")
    if has_second and not told:
        raise UserError("this denoiser is told one time, and is given two", "use another solver, or leave to out")


def tensor_name(graph: GraphEntry, role: Role) -> str:
    """The name of the graph's input or output of a role."""
    return next(tensor.name for tensor in (*graph.inputs, *graph.outputs) if tensor.role == role)


def _fed(tensors: Iterable[TensorEntry]) -> Iterator[TensorEntry]:
    """Those that take times and conditions."""
    return (tensor for tensor in tensors if tensor.role in ("time", "to", "condition"))


def _key(tensor: TensorEntry, by_input: Mapping[str, str]) -> str:
    """Where the values of such an input stand in a block."""
    if tensor.role == "condition":
        return by_input[tensor.name]
    return TIME if tensor.role == "time" else TO


def _inputs(tensors: Iterable[TensorEntry], values: Arrays, by_input: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """The time and condition inputs of a graph, under its own names."""
    return {tensor.name: values[_key(tensor, by_input)] for tensor in _fed(tensors)}
