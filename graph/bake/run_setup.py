"""The part of a baked run before the first step: inputs, conditions of all branches, prologue rows.

Conditioner and prologue run once for all steps and branches together, as in the executor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from fewstep.graph.bake.batch import RunBatch
from fewstep.graph.builder import Builder
from fewstep.graph.graph import Graph
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND, PERTURBED, UNCOND
from fewstep.plans.plan import DENOISER
from fewstep.runtime.backends import Arrays
from fewstep.runtime.bundle.conditions import has_null
from fewstep.runtime.bundle.manifest import Condition, GraphEntry, Manifest

INT64 = 7  # ONNX's number of the type


@dataclass(frozen=True)
class SetupTensors:
    """Tensors computed before the first step that the steps read.

    branches: the branches of all steps, in order.
    by_branch: conditions, and the prologue rows that depend only on them, [branches * B, ...], by input name.
    by_pair: prologue rows [P * B, ...] for the P pairs of step and branch, step after step, by input name.
    first_pair: the index of each step's first pair.
    """

    branches: tuple[str, ...]
    by_branch: Mapping[str, str]
    by_pair: Mapping[str, str]
    first_pair: tuple[int, ...]


def add_conditions(
    outer: Builder, manifest: Manifest, plan: AnyPlan, tensors: Mapping[str, str], nulls: Arrays
) -> dict[str, str]:
    """Add the conditions [branches * B, ...] of all branches; return them by condition name.

    tensors: the conditions [B, ...], by name. nulls: null values stored in files.
    """
    branches = _branches(plan)
    return {
        one.name: _join(outer, [_value(outer, one, branch, tensors[one.name], nulls) for branch in branches], one.name)
        for one in manifest.conditions
    }


def add_setup(
    outer: Builder,
    batch: RunBatch,
    manifest: Manifest,
    graphs: Mapping[str, Graph],
    plan: AnyPlan,
    conditions: Mapping[str, str],
    network: str = DENOISER,
) -> SetupTensors:
    """Add the conditioner and prologue of a network. `manifest` describes this network only, and the prologue computes
    the rows of its steps.

    graphs: the "conditioner" and the "prologue", if the network has them.
    conditions: the conditions of all branches by name, from `add_conditions`.
    """
    under = "" if network == DENOISER else f"{network}_"
    branches, steps = _branches(plan), [step for step in plan.steps if step.network == network]
    by_branch = {condition.input: conditions[condition.name] for condition in manifest.conditions}
    if manifest.conditioner is not None:
        feeds = {tensor.name: by_branch[tensor.name] for tensor in manifest.conditioner.inputs}
        by_branch |= outer.inline_graph(graphs["conditioner"], feeds, f"{under}conditioner", batch="branches")
    counts = [len(step.branches) * (step.network == network) for step in plan.steps]
    first_pair = tuple(int(at) for at in np.cumsum([0, *counts[:-1]]))
    by_pair: dict[str, str] = {}
    if manifest.prologue is not None:
        times = [step.time for step in steps for _ in step.branches]
        to = [0.0 if step.to is None else step.to for step in steps for _ in step.branches]
        places = [branches.index(branch) for step in steps for branch in step.branches]
        feeds = _pair_inputs(outer, batch, manifest.prologue, by_branch, {"time": times, "to": to}, places, under)
        by_pair = outer.inline_graph(graphs["prologue"], feeds, f"{under}prologue", batch=f"{under}pairs")
    return SetupTensors(branches, by_branch, by_pair, first_pair)


def _branches(plan: AnyPlan) -> tuple[str, ...]:
    """Return the branches of all steps: first those of the step with the most, then those that only other steps have,
    as with the guidance weights (0, 1)."""
    most = max((step.branches for step in plan.steps), key=len)
    return tuple(dict.fromkeys((*most, *(branch for step in plan.steps for branch in step.branches))))


def add_limit_check(outer: Builder, condition: Condition, tensor: str) -> str:
    """Add nodes that return a condition [B, ...] unchanged, or fail for a value beyond the condition's limits, except
    the null value. Return the name of the result. Without the check, a class of -1 would index the network's table from
    its end."""
    limits = [("GreaterOrEqual", condition.low), ("LessOrEqual", condition.high)]
    tests = [
        outer.node(op, (tensor, outer.constant(np.asarray(limit, condition.dtype), f"{condition.name}_{op}_than")),
                   f"{condition.name}_{op}")
        for op, limit in limits
        if limit is not None and condition.dtype != "bool"  # ONNX does not compare bool, and every bool is valid
    ]  # fmt: skip
    if not tests:
        return tensor
    is_right = tests[0] if len(tests) == 1 else outer.node("And", tests, f"{condition.name}_is_within")
    limits_text = "_to_".join("any" if limit is None else f"{limit:g}" for _, limit in limits)
    if condition.null is not None:
        null = outer.constant(np.asarray(condition.null, condition.dtype), f"{condition.name}_none")
        is_null = outer.node("Equal", (tensor, null), f"{condition.name}_is_none")
        is_right = outer.node("Or", (is_right, is_null), f"{condition.name}_is_valid")
        limits_text += f"_or_{condition.null:g}"
    is_wrong = outer.node("Not", (is_right,), f"{condition.name}_is_wrong")
    return add_refusal(outer, is_wrong, tensor, f"{condition.name}_is_from_{limits_text}", condition.dtype)


def add_batch_check(outer: Builder, batch: RunBatch, name: str, tensor: str) -> str:
    """Add nodes that return a condition [B, ...] unchanged, or fail if B is not the run's number of samples. Return the
    name of the result. With guidance, branches would otherwise read the rows of other samples."""
    own = outer.node("Shape", (tensor,), f"{name}_batch", start=0, end=1)
    is_right = outer.node("Equal", (own, batch.size), f"{name}_is_whole")
    place = outer.node("Cast", (outer.node("Not", (is_right,), f"{name}_is_not_whole"),), f"{name}_at", to=INT64)
    first = outer.constant(np.array([0], np.int64), "first_axis")
    table = outer.node("Unsqueeze", (tensor, first), f"{name}_table")  # of one element, as in `add_refusal`
    found = outer.node("Gather", (table, place), f"{name}_has_one_value_per_sample", axis=0)
    return outer.node("Squeeze", (found, first), f"{name}_of_all_samples")


def add_refusal(builder: Builder, is_wrong: str, tensor: str, name: str, dtype: str = "int64") -> str:
    """Add a check that makes a call fail if a value is wrong, and return the checked tensor.

    ONNX has no operation that refuses a value. The tensor is therefore multiplied by 1, which is looked up in a table
    of one element: at index 0, or at index 1 if a value is wrong. onnxruntime refuses an index beyond the table, and
    its error names the node.
    """
    place = builder.node("Cast", (is_wrong,), f"{name}_place", to=INT64)
    table = builder.constant(np.ones(1, dtype), f"{name}_one")
    one = builder.node("Gather", (table, place), name, axis=0)
    return builder.node("Mul", (tensor, one), f"{name}_checked")


def check_branches(manifest: Manifest, plan: AnyPlan) -> None:
    """Raise UserError if the file cannot provide the conditions of a branch of the plan. The error names the branch."""
    everything = _branches(plan)
    for branch in everything:
        if branch not in (COND, UNCOND, PERTURBED):
            raise UserError(
                f"plan {plan.name!r} evaluates the branch {branch!r}, whose conditions only the caller knows",
                "bake a plan with a guidance weight or with pag:SCALE: they use only the branches cond, uncond and "
                "perturbed",
            )
        for condition in manifest.conditions:
            if branch == UNCOND and not has_null(condition):
                raise UserError(
                    f"guidance needs an unconditional branch, and condition {condition.name!r} has no null value",
                    "leave guidance out",
                )
            if branch == UNCOND and condition.null_file is not None and condition.follows:
                what = f"the null value of {condition.name!r} has a length of its own, and a baked file has one for all"
                raise UserError(f"{what} branches", "bake with --guidance 1")
    for step in plan.steps:
        if step.branches != everything[everything.index(step.branches[0]) :][: len(step.branches)]:
            raise UserError(f"plan {plan.name!r} evaluates its branches in different orders", "compile it again")


def _value(outer: Builder, condition: Condition, branch: str, tensor: str, nulls: Arrays) -> str:
    """Return the condition [B, ...] in a branch, as `runtime.bundle.conditions.null` does. The condition that switches
    perturbation on is 1 in the perturbed branch."""
    if branch == PERTURBED and condition.name == PERTURBED:
        condition = msgspec.structs.replace(condition, null=1.0)
    elif branch in (COND, PERTURBED) or (condition.shared and condition.null is None and condition.name not in nulls):
        return tensor
    has_number = condition.null is not None
    null = np.asarray(condition.null, condition.dtype) if has_number else nulls[condition.name][None]
    name = f"null_{condition.name}"
    shape = outer.node("Shape", (tensor,), f"{name}_shape")
    return outer.node("Expand", (outer.constant(null, f"{name}_value"), shape), name)


def _join(outer: Builder, tensors: Sequence[str], name: str) -> str:
    return tensors[0] if len(tensors) == 1 else outer.node("Concat", tensors, f"branches_{name}", axis=0)


def _pair_inputs(
    outer: Builder,
    batch: RunBatch,
    prologue: GraphEntry,
    by_branch: Mapping[str, str],
    times: Mapping[str, Sequence[float]],
    places: Sequence[int],
    under: str,
) -> dict[str, str]:
    """Return the names of the prologue's inputs for all pairs of step and branch. `places` has the branch index of each
    pair. New tensor names begin with `under`."""
    pairs = len(places)
    shape = batch.pair(pairs)
    flat = outer.constant(np.array([-1], np.int64), "flat")
    feeds = {}
    where = ""
    for tensor in prologue.inputs:
        if tensor.role in times:
            column = outer.constant(np.array(times[tensor.role], np.float32)[:, None], f"{under}{tensor.role}_of_steps")
            spread = outer.node("Expand", (column, shape), f"{under}{tensor.role}_of_pairs")
            feeds[tensor.name] = outer.node("Reshape", (spread, flat), f"{under}{tensor.role}_flat")
            continue
        if not where:
            column = outer.constant(np.array(places, np.int64)[:, None], f"{under}branch_of_pairs")
            start = outer.node("Mul", (column, batch.size), f"{under}start_of_pairs")
            every = outer.node("Add", (start, batch.places(1)), f"{under}place_of_pairs")
            where = outer.node("Reshape", (every, flat), f"{under}place_flat")
        feeds[tensor.name] = outer.node(
            "Gather", (by_branch[tensor.name], where), f"{under}{tensor.name}_of_pairs", axis=0
        )
    return feeds
