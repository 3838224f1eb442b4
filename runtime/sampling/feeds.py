"""The body's inputs for each call: times, conditions, prologue rows and the range group."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.any_plan import AnyPlan, times_of
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND, PERTURBED, UNCOND
from fewstep.runtime.backends import Arrays
from fewstep.runtime.bundle import conditions
from fewstep.runtime.bundle.manifest import Body, Condition, GraphEntry, Role
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.prologue_rows import TIME, TIMES, TO

Overrides = Mapping[str, Mapping[str, Any]]  # branch -> condition -> values, None for the null value
BranchValues = Callable[[str], Arrays]  # branch -> its conditions [samples, *shape] by name

BRANCHES_FIX = "give branches={BRANCH: {CONDITION: VALUES}} (None for a null value)"


def branch_values(
    takes: Sequence[Condition],
    condition: conditions.ConditionValues | None,
    branches: Overrides | None,
    samples: int,
    nulls: Arrays = MappingProxyType({}),
) -> BranchValues:
    """A function of a branch that gives its conditions [samples, *shape]: "cond" as given, "uncond" null,
    "perturbed" as given with perturbed attention, others as `branches` says.

    `nulls` are the null values that lie in files, by condition.
    """
    cond_values = conditions.check(takes, condition, samples)
    by_name = {each.name: each for each in takes}
    by_branch = {COND: cond_values}
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
        by_branch[branch] = checked | {name: conditions.null(by_name[name], cond_values[name], nulls) for name in unset}

    def values_of(branch: str) -> Arrays:
        if branch == UNCOND and branch not in by_branch:
            by_branch[branch] = {each.name: conditions.null(each, cond_values[each.name], nulls) for each in takes}
        if branch == PERTURBED and branch not in by_branch and PERTURBED in cond_values:
            by_branch[branch] = cond_values | {PERTURBED: np.ones_like(cond_values[PERTURBED])}
        if branch not in by_branch:
            raise UserError(
                f"the plan's guidance has a branch {branch!r}, and nothing says what its conditions are",
                f"give branches={{{branch!r}: {{CONDITION: VALUES}}}} (None for a null value)",
            )
        return by_branch[branch]

    return values_of


def plan_blocks(plan: AnyPlan, values_of: BranchValues, samples: int, time_shape: tuple[int, ...] = ()) -> list[Arrays]:
    """The conditions and times [branches * samples, ...] of each step, the branches one after the other. `time_shape`
    is the shape of a sample's time."""
    joined: dict[tuple[str, ...], dict[str, NDArray[Any]]] = {}  # a condition may be an image: once for all steps
    blocks: list[Arrays] = []
    for step in plan.steps:
        if step.branches not in joined:
            parts = [values_of(branch) for branch in step.branches]
            joined[step.branches] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        block = dict(joined[step.branches])
        block[TIME] = np.full((len(step.branches) * samples, *time_shape), times_of(plan, step), np.float32)
        if step.to is not None:
            block[TO] = np.full(len(step.branches) * samples, step.to, np.float32)
        blocks.append(block)
    return blocks


class BodyInputs(NamedTuple):
    """The inputs of a body but x, by name: values of a block under their keys, range groups, and prologue rows."""

    direct: Mapping[str, str]
    groups: tuple[str, ...]
    rows: tuple[str, ...]
    has_time: bool  # it, or the prologue, takes the time
    has_second_time: bool  # and the time to go to

    @classmethod
    def from_body(cls, bundle: Bundle, body: Body) -> "BodyInputs":
        """The inputs of all its graphs: one may take what another, all in float, does not, such as the group."""
        by_input = {each.input: each.name for each in bundle.manifest.conditions}
        roles = {each.name: each.role for graph in body.graphs for each in graph.inputs}
        keys = {name: by_input[name] if role == "condition" else TIMES.get(role) for name, role in roles.items()}
        direct = {name: key for name, key in keys.items() if key is not None}
        groups, rows = (
            tuple(name for name, its_role in roles.items() if its_role == role) for role in ("group", "row")
        )
        prologue = bundle.manifest.prologue
        ahead = () if prologue is None else prologue.inputs
        read = {*direct.values(), *(TIMES.get(each.role) for each in ahead)}
        return cls(direct, groups, rows, TIME in read, TO in read)


def check_times(has_second: bool, takes_two: bool) -> None:
    """UserError unless plan and network agree: a network that takes two times needs a plan that names both."""
    if takes_two and not has_second:
        raise UserError("this denoiser takes two times, and gets one", "use a solver such as ctm, or give to=")
    if has_second and not takes_two:
        raise UserError("this denoiser takes one time, and gets two", "use another solver, or leave to out")


def tensor_name(graph: GraphEntry, role: Role) -> str:
    """The name of the graph's input or output of a role."""
    return next(tensor.name for tensor in (*graph.inputs, *graph.outputs) if tensor.role == role)
