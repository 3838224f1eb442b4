"""`fewstep fit --light 0.1`: choose the light steps of a plan. A step is light if the features of earlier steps predict
its own features well.

At run time, the First Block Cache (ParaAttention) and DBCache (cache-dit) skip a step if the residual of the first
blocks has changed by less than a threshold since the last full step: mean |a - b| / mean |a|. TeaCache (Liu et al.
2024, arXiv 2411.19108) accumulates such changes of the modulated input. Both are proxies, since a run does not know the
features that it skips. Before deployment they are known: here all steps are full, and the relative difference is
between the features of a step and those that a light step would read. The result is a fixed list of steps.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fewstep.fitting.options import FitOptions
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.record_sizes import sizes_of_conditions, split_seeds_by_size
from fewstep.measure.rollouts.seeds import FIT_SEEDS, draw_conditions, held_out_conditions
from fewstep.measure.rollouts.trajectories import BATCH
from fewstep.plans.errors import UserError
from fewstep.plans.light_steps import slot_weights, use_light_steps
from fewstep.plans.names.plan_reference import NamedReference
from fewstep.plans.plan import LIGHT, Plan, Step
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.kinds.graph_entry import NEXT
from fewstep.runtime.kinds.named_tensors import Features as FeatureCut
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.sampler import Sampler
from fewstep.runtime.sampling.step_call import GraphCall

Features = NDArray[np.float32]
BODY = "float32"


@dataclass(frozen=True)
class LightChoice:
    """Light steps that were chosen by a threshold.

    plan: the name of the plan with them.
    errors: for each step, the relative difference of its features from those that it would read if it were light; None
        for the first step.
    cost: the multiply-adds of the plan, in evaluations of the full network.
    seeds: the number of trajectories.
    """

    plan: str
    errors: tuple[float | None, ...]
    light: tuple[int, ...]
    cost: float
    seeds: int


@dataclass(frozen=True)
class LightTask:
    """The inputs for choosing the light steps of a plan.

    plan: with full steps only.
    features: the description of the features that the light network reads.
    records: the conditions of the trajectories; None for random conditions, determined by the seeds.
    seeds: the number of trajectories.
    threshold: the largest relative error that the features of a light step may have.
    """

    sampler: Sampler
    plan: Plan
    features: FeatureCut
    records: ConditionRecords | None
    seeds: int
    threshold: float


def open_light_task(options: FitOptions) -> LightTask:
    """Open the bundle, compile the plan and read the conditions for `fewstep fit --light`.

    Raises UserError for a bundle without a light network, and for a plan that no name with light steps can describe.
    """
    assert options.light is not None
    sampler = load(options.bundle, backend=create_backend(options.backend, options.threads), body=BODY)
    features = sampler.bundle.manifest.features
    if features is None:
        raise UserError(f"{options.bundle} has no light network", "export it with --cache")
    reference = options.plan
    if not isinstance(reference, NamedReference) or reference.parts.light is not None:
        of = "without a plan" if reference is None else f"cannot choose the light steps of {reference}"
        raise UserError(f"--light {of}", "give --plan SOLVER:STEPS, without light steps")
    plan = sampler.compile(reference, options.guidance)
    records = options.calibration_conditions(sampler.bundle).records
    return LightTask(sampler, plan, features, records, options.seeds, options.light)


def choose_light_steps(task: LightTask, progress: Progress = SILENT) -> LightChoice:
    """Measure the features along trajectories of the float32 body, and choose which steps of a plan can reuse earlier
    features (light steps)."""
    sampler, plan, features = task.sampler, task.plan, task.features
    parts = split_seeds_by_size(FIT_SEEDS[: task.seeds], task.records, BATCH)
    batches = [(part, _conditions_of(sampler, part, task.records)) for part in parts]
    runs = [_features_of_steps(sampler, plan, features.name, *batch) for batch in batches]
    light, errors = _measure(plan, runs, task.threshold, progress)
    made = use_light_steps(plan, light, features.name, linear=True)
    cost = sum(features.share if step.network == LIGHT else 1.0 for step in made.steps)
    return LightChoice(made.name, tuple(errors), tuple(light), cost, task.seeds)


def _conditions_of(sampler: Sampler, seeds: Sequence[int], records: ConditionRecords | None) -> ConditionRecords:
    """Return the conditions of some seeds. With records, seed i has record i mod N; without, conditions are random and
    follow from the seed."""
    manifest = sampler.bundle.manifest
    return draw_conditions(manifest, seeds) if records is None else held_out_conditions(manifest, seeds, records)


def _measure(
    plan: Plan, runs: Sequence[Iterator[Features]], threshold: float, progress: Progress
) -> tuple[list[int], list[float | None]]:
    """Return the indices of the steps that can be light, and for each step the error of the features that a light step
    would reuse: the mean over seeds and branches, or None for a step without earlier features.

    A step is light if its error is below `threshold`. `runs` yield the features of each batch, step by step. All
    batches advance together, because the error of a step is a mean over all seeds.
    """
    light, errors = list[int](), list[float | None]()
    full, slots = list[Step](), list[list[Features]]()  # the last full steps, and their features in each batch
    for number, made in enumerate(zip(*runs, strict=True)):
        step, error = plan.steps[number], None
        if full:
            weights = slot_weights(step, full, slots=2)
            error = float(np.mean([_error(own, held, weights) for own, held in zip(made, zip(*slots), strict=True)]))
        errors.append(error)
        if error is not None and error < threshold:
            light.append(number)
        else:
            full, slots = [step, *full][:2], [list(made), *slots][:2]
        progress("features", number + 1, len(plan.steps))
    return light, errors


def _features_of_steps(
    sampler: Sampler, plan: Plan, features: str, seeds: Sequence[int], conditions: ConditionRecords
) -> Iterator[Features]:
    """Yield the features [branches * B, *shape] that each step of a run returns."""
    kept: list[Features] = []
    watched = replace(sampler, on_call=partial(_keep_features, kept.append, NEXT + features))
    watched = watched.with_options(adapters=None, **sizes_of_conditions(sampler.bundle.manifest, conditions))
    for _ in watched.steps(plan, seeds, conditions, plan.guidance):
        yield kept.pop()


def _keep_features(keep: Callable[[Features], None], port: str, index: int, call: GraphCall) -> None:
    keep(np.asarray(call.returned[port], np.float32))


def _error(own: Features, held: Sequence[Features], weights: Sequence[float]) -> float:
    """Return the relative error, mean |read - own| / mean |own|, of the features that a light step would read: the
    weighted sum of the features of the last full steps."""
    if any(array.shape != own.shape for array in held):
        return float("inf")  # of other branches: the step is full
    read = sum(weight * each for weight, each in zip(weights, held, strict=False))
    return float(np.abs(read - own).mean() / max(float(np.abs(own).mean()), np.finfo(np.float32).tiny))
