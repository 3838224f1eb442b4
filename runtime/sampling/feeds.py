"""The inputs of a body for each call: times, conditions, prologue rows and the range group."""

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
from fewstep.runtime.bundle.manifest import Body, Condition, GraphEntry, Role, Size
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import cut_to_prompt
from fewstep.runtime.sampling.prologue_rows import TIME, TIMES, TO

BranchValues = Callable[[str], Arrays]  # branch -> its conditions [samples, *shape] by name

BRANCHES_FIX = "give branches={BRANCH: {CONDITION: VALUES}} (None for a null value)"


def branch_values(
    takes: Sequence[Condition],
    condition: conditions.ConditionValues | None,
    branches: conditions.Overrides | None,
    samples: int,
    nulls: Arrays = MappingProxyType({}),
    axes: Sequence[Size] = (),
) -> BranchValues:
    """Return a function from the name of a branch to its conditions, [samples, *shape] by name.

    "cond" has the given conditions and "uncond" the null values. "perturbed" has the given conditions with perturbed
    attention. `branches` gives the conditions of other branches, or replaces some of those of these three. A condition
    that is not replaced has the sample's value, but its null value in "uncond" if it has one. `nulls` are null
    values read from files, by condition. `axes` are the free axes of x.
    """
    cond_values = conditions.check(takes, condition, samples, axes)
    nulls = cut_to_prompt(takes, nulls, cond_values, axes)
    by_name = {condition.name: condition for condition in takes}
    null_names = {condition.name for condition in takes if condition.null is not None} | nulls.keys()
    by_branch = {COND: cond_values}
    branches = {} if branches is None else branches
    if not isinstance(branches, Mapping):
        raise UserError(f"branches {branches!r} is not a mapping of branches to conditions", BRANCHES_FIX)
    for branch, overrides in branches.items():
        if not isinstance(overrides, Mapping):
            raise UserError(f"branch {branch!r} is {overrides!r}, not a mapping of conditions to values", BRANCHES_FIX)
        if not overrides:
            raise UserError(f"branch {branch!r} sets no condition, so it equals the branch 'cond'", BRANCHES_FIX)
        for name, values in overrides.items():
            if name not in by_name:
                raise UserError(f"branch {branch!r} sets unknown condition {name!r}", f"set one of {list(by_name)}")
            if values is None and name not in null_names:
                what = f"branch {branch!r} sets condition {name!r} to None, but it has no null value"
                raise UserError(what, "give its values")
        unset = {name for name, values in overrides.items() if values is None}
        unset |= null_names - overrides.keys() if branch == UNCOND else set()
        merged: dict[str, Any] = dict(condition or {}) | {n: v for n, v in overrides.items() if n not in unset}
        checked = conditions.check(takes, merged, samples, axes)
        by_branch[branch] = checked | {name: conditions.null(by_name[name], cond_values[name], nulls) for name in unset}

    def values_of(branch: str) -> Arrays:
        if branch == UNCOND and branch not in by_branch:
            by_branch[branch] = {
                condition.name: conditions.null(condition, cond_values[condition.name], nulls) for condition in takes
            }
        if branch == PERTURBED and branch not in by_branch and PERTURBED in cond_values:
            by_branch[branch] = cond_values | {PERTURBED: np.ones_like(cond_values[PERTURBED])}
        if branch not in by_branch:
            raise UserError(
                f"the plan's guidance has a branch {branch!r} whose conditions are not given",
                f"give branches={{{branch!r}: {{CONDITION: VALUES}}}} (None for a null value)",
            )
        return by_branch[branch]

    return values_of


def plan_times(plan: AnyPlan, samples: int, time_shape: tuple[int, ...] = ()) -> tuple[Arrays, ...]:
    """Return the times [branches * samples, ...] of each step. `time_shape` is the shape of a sample's time."""
    times: list[dict[str, NDArray[Any]]] = []
    for step in plan.steps:
        count = len(step.branches) * samples
        times.append({TIME: np.full((count, *time_shape), times_of(plan, step), np.float32)})
        if step.to is not None:
            times[-1][TO] = np.full(count, step.to, np.float32)
    return tuple(times)


def join_branches(branches: Sequence[str], values_of: BranchValues) -> Arrays:
    """Return the conditions [branches * samples, ...] of a step with these branches, concatenated."""
    parts = [values_of(branch) for branch in branches]
    return {name: _join([part[name] for part in parts]) for name in parts[0]}


def _join(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    if len({part.shape for part in parts}) > 1:
        what = "the texts of the branches of guidance differ in length, and one call takes one length"
        raise UserError(what, "give all samples one plan, or texts of one length")
    return np.ascontiguousarray(parts[0]) if len(parts) == 1 else np.concatenate(parts)


class BodyInputs(NamedTuple):
    """The names of all inputs of a body except x."""

    direct: Mapping[str, str]  # times and conditions -> their keys in `Blocks`
    groups: tuple[str, ...]  # range groups
    rows: tuple[str, ...]  # rows of the conditioner and the prologue
    has_time: bool  # whether the body or the prologue takes the time
    has_second_time: bool  # whether one of them also takes the second time, at which the step ends

    @classmethod
    def from_body(cls, bundle: Bundle, body: Body) -> "BodyInputs":
        """Return the inputs of a body: those that at least one of its graphs has. Graphs may differ: a float graph has
        no input for the range group."""
        by_input = {condition.input: condition.name for condition in bundle.manifest.conditions}
        roles = {port.name: port.role for graph in body.graphs for port in graph.inputs}
        keys = {name: by_input[name] if role == "condition" else TIMES.get(role) for name, role in roles.items()}
        direct = {name: key for name, key in keys.items() if key is not None}
        groups, rows = (
            tuple(name for name, its_role in roles.items() if its_role == role) for role in ("group", "row")
        )
        prologue = bundle.manifest.prologue
        prologue_inputs = () if prologue is None else prologue.inputs
        read = {*direct.values(), *(TIMES.get(port.role) for port in prologue_inputs)}
        return cls(direct, groups, rows, TIME in read, TO in read)


def check_times(has_second: bool, takes_two: bool) -> None:
    """Raise UserError unless plan and network agree: a network that takes two times needs a plan with both."""
    if takes_two and not has_second:
        raise UserError(
            "this denoiser takes two times, but gets one", "use a plan such as ctm:4, or give `evaluate` the time to="
        )
    if has_second and not takes_two:
        raise UserError(
            "this denoiser takes one time, but gets two",
            "use a plan such as dpmpp_2m:8, or call `evaluate` without to=",
        )


def tensor_name(graph: GraphEntry, role: Role) -> str:
    """Return the name of a graph's input or output with a role."""
    return next(tensor.name for tensor in (*graph.inputs, *graph.outputs) if tensor.role == role)
