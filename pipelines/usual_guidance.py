"""The guidance of a pipeline's usual call, in terms of the options of `fewstep run`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice

import numpy as np

from fewstep.pipelines.relations.adapter import RecordedNetwork
from fewstep.pipelines.relations.arguments import branch_names
from fewstep.pipelines.relations.networks import RecordedNetworks
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND, UNCOND
from fewstep.plans.names.plan_reference import SchedulerReference
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import describe_shaping

STEPS = (4, 8)  # of the examples: a student's, and those that export suggests
CLOSE = 1e-3  # largest difference of equal weights


def describe_guidance(
    modules: RecordedNetworks,
    plan: Callable[[int], Plan],
    guided_by: tuple[str, float] | None = None,
    weights_of_more_steps: Sequence[Sequence[float]] = (),
) -> str:
    """Describe the guidance of the pipeline's usual call: one weight, or one for the steps of each network.

    plan: returns the plan of the pipeline's scheduler in a number of steps, or raises UserError.
    guided_by: the argument (name, value) with which it was recorded, if its usual call has no guidance.
    weights_of_more_steps: the weights of each step of a call with more steps, of a pipeline with one network.
    """
    names = branch_names(modules.quiet.found.branches, modules.quiet.arguments)
    if len(names) == 1:
        return "its pipeline uses no guidance by default"
    by_network = {name: _weights_of(module, names) for name, module in modules.modules.items()}
    first = next(iter(by_network.values()))[0]
    is_constant = all(_are_equal([*rows, *weights_of_more_steps]) for rows in by_network.values())
    has_one_weight = _are_equal([rows[0] for rows in by_network.values()])
    is_usual = set(names) == {COND, UNCOND}
    if not is_constant or not (has_one_weight or is_usual):
        begins = _join(names, first)
        return f"the guidance of its pipeline changes with the step, unlike --guidance; it begins with {begins}"
    if not is_usual:
        return f"its pipeline combines {_join(names, first)}, which needs branches of these names"
    weights = {name: rows[0][names.index(COND)] for name, rows in by_network.items()}
    change = modules.quiet.found.combination.change
    weight = f"--guidance {first[names.index(COND)]:g}" if has_one_weight else _describe_two(modules, weights, plan)
    weight += "" if change is None else f", {describe_shaping(change.shaping)}"
    if guided_by is not None:
        return f"its call uses no guidance by default; {guided_by[0]}={guided_by[1]:g} is {weight}"
    return f"the default guidance of its pipeline is {weight}"


def find_weight(
    modules: RecordedNetworks,
    guided_by: tuple[str, float] | None = None,
    weights_of_more_steps: Sequence[Sequence[float]] = (),
) -> float | None:
    """Return the weight of the pipeline's usual call, with the arguments of `describe_guidance`. None if it has no
    guidance by default, or another than one weight for the conditional branch."""
    names = branch_names(modules.quiet.found.branches, modules.quiet.arguments)
    if set(names) != {COND, UNCOND} or guided_by is not None:
        return None
    rows = [row for module in modules.modules.values() for row in _weights_of(module, names)]
    if not _are_equal([*rows, *weights_of_more_steps]):
        return None
    return float(f"{rows[0][names.index(COND)]:.5g}")  # measured, up to rounding


def _describe_two(modules: RecordedNetworks, weights: Mapping[str, float], plan: Callable[[int], Plan]) -> str:
    """Describe a weight for the steps of each of two networks, with the options for some numbers of steps."""
    (noisy, early), (quiet, late) = weights.items()
    options = []
    for steps in STEPS:
        with suppress(UserError):  # a scheduler may have plans of other numbers of steps only
            is_early = [modules.is_noisy(step.lam) for step in plan(steps).steps]
            values = [*[early] * sum(is_early), *islice([late], is_early.count(False))]
            options.append(f"{SchedulerReference(steps)} --guidance {','.join(f'{value:g}' for value in values)}")
    examples = f": for {' and for '.join(options)}" if options else ""
    return f"{early:g} in the steps of {noisy} and {late:g} in those of {quiet}{examples}"


def _weights_of(module: RecordedNetwork, names: Sequence[str]) -> list[list[float]]:
    """Return the weights of the branches of these names in each recorded step of a network."""
    own = branch_names(module.found.branches, module.arguments)
    return [[row[own.index(name)] for name in names] for row in module.found.combination.weights]


def _are_equal(rows: Sequence[Sequence[float]]) -> bool:
    return np.allclose(rows, rows[0], rtol=0, atol=CLOSE)


def _join(names: Sequence[str], weights: Sequence[float]) -> str:
    return ", ".join(f"{weight:g} of {name}" for name, weight in zip(names, weights, strict=True))
