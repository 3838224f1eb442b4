"""Whether float32's own samples can be a reference: bodies that agree with useless samples are useless too.

An epsilon denoiser in one step divides its error by a tiny alpha, and a clip then moves every value to a limit. All
bodies agree on such samples, so that a PSNR of 200 dB says nothing. The share of values at a limit does not show this:
the background of drawings lies there too. The distance of the predictions beyond the limit does.

Samples that are not better than the mean of the data are found by its statistics, which `export --check` stores
(`data_distance`). For samples that are all the mean of the data, the distance is the variance of the data. Without
stored statistics, this is not checked.

A deterministic policy of one step has nearly a single answer to an observation. So samples of two seeds may be similar,
but not equal up to rounding.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np

from fewstep.measure.rollouts.data_distance import FEWEST, distance_from_data
from fewstep.measure.rollouts.metrics import Floats
from fewstep.measure.rollouts.reference_run import ReferenceRun, run_reference
from fewstep.measure.rollouts.seeds import OTHER_SEEDS, SeedBatch, are_drawn, random_conditions
from fewstep.plans.any_plan import check_compiled, shaping_of
from fewstep.plans.errors import UserError, quote_path
from fewstep.plans.guidance import COND, respread_weights
from fewstep.plans.names.plan_name import is_plan_name
from fewstep.plans.names.plan_reference import parse_plan_text, split_plan_name, with_steps
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import Clip
from fewstep.runtime.bundle.figures import Figure, ReferenceCheck
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.sampling.execute import make_rows
from fewstep.runtime.sampling.finite_checks import ANY_DATA, BEYOND, clip_advice, data_range
from fewstep.runtime.sampling.request import PlanSettings
from fewstep.runtime.sampling.sampler import Sampler

BEYOND_CLIP = 1.05  # times the clip; trained networks predict at most a third of the values above this, in one step
MOST_BEYOND = 0.5  # the largest share of values that may be beyond the clip
LEAST_EFFECT = 1e-6  # of seeds, of conditions and of positions, relative to the size of samples: float32 rounding
MAGNITUDE = "magnitude"  # the name of a figure
OF_LIMIT = 1.1  # largest mean magnitude of samples, as a multiple of the largest in the data: data may be -1 and 1 only
MOST_DISTANCE = 0.9  # of the distance that the mean of the data has: a deviation of 0.05 or 1.95 times that of the data
MOST_STEPS = 32  # of a plan that is tried in place of the given one


def check_reference(sampler: Sampler, run: ReferenceRun) -> ReferenceCheck:
    """Return the figures of float32's samples, each with its limit. If one misses it, also find a plan of more steps
    whose samples keep all limits.

    sampler: the sampler of float32, which samples again with other seeds and with other conditions.
    """
    sampler = run.batch.at_size(sampler)
    figures = reference_figures(sampler, run)
    missed = [figure.name for figure in figures if not figure.is_kept]
    if not missed or MAGNITUDE in missed:  # which a clip helps, as the problem says
        return ReferenceCheck(figures)
    return ReferenceCheck(figures, *_find_usable_plan(sampler, run))


def require_usable_reference(sampler: Sampler, plan: Plan, batch: SeedBatch) -> None:
    """Raise UserError if float32's samples along a plan miss a limit, before anything is compared with them."""
    call = batch.at_size(sampler).step_call(plan, len(batch.seeds), batch.conditions)
    run = run_reference(plan, batch, call.step_network)
    if (problem := check_reference(sampler, run).problem) is not None:
        raise UserError(
            f"nothing can be compared with the samples of {plan.name}. Not usable: {problem}",
            f"look at them: fewstep run {quote_path(sampler.bundle.path)} --precision float32 --plan {plan.name}",
        )


def has_clip(plan: Plan) -> bool:
    """Return whether the last prediction of a plan is clipped."""
    return isinstance(plan.steps[-1].shaping, Clip)


def clip_problem(sampler: Sampler, plan: Plan, batch: SeedBatch) -> str | None:
    """Return why float32's samples along a plan cannot be a reference, if most values are predicted beyond its clip."""
    call = batch.at_size(sampler).step_call(plan, len(batch.seeds), batch.conditions)
    figures = _clip_figures(run_reference(plan, batch, call.step_network))
    return next((figure.problem for figure in figures if not figure.is_kept), None)


def reference_figures(sampler: Sampler, run: ReferenceRun) -> tuple[Figure, ...]:
    """Return the figures of float32's samples, each with its limit."""
    manifest = sampler.bundle.manifest
    is_clipped = shaping_of(run.plan) is not None
    scale = _scale_figures(run.sample, manifest, is_clipped)
    return (*_clip_figures(run), *scale, *_distance_figures(run, manifest), *_effect_figures(sampler, run))


def _clip_figures(run: ReferenceRun) -> Iterator[Figure]:
    """Yield the share of the last step's values that are predicted beyond the clip, if the plan clips."""
    last = run.states[-1]
    step = last.step
    if not isinstance(step.shaping, Clip):
        return
    columns = [*last.before, *last.outputs]
    (predicted, *_) = make_rows(last.tensors, step.shaping_of, step.shaping_terms, columns, last.u.dtype)
    middle, half = (step.shaping.high + step.shaping.low) / 2, (step.shaping.high - step.shaping.low) / 2
    share = float((np.abs(predicted - middle) > BEYOND_CLIP * half).mean())
    problem = (
        f"{100 * share:.0f} % of the values are predicted more than {100 * (BEYOND_CLIP - 1):.0f} % beyond the clip, "
        "which moves them to its limits"
    )
    yield Figure("beyond the clip", share, MOST_BEYOND, True, problem)


def _scale_figures(sample: Floats, manifest: Manifest, is_clipped: bool) -> Iterator[Figure]:
    """Yield the size of samples, relative to the largest magnitude in the data, and their standard deviation."""
    values = sample.astype(np.float64)
    size = float(np.sqrt(np.square(values).mean()))
    known = data_range(manifest)
    limit = ANY_DATA if known is None else known * (OF_LIMIT if manifest.data_limit is not None else BEYOND)
    whose = "your data" if manifest.data_limit is not None else "usual data"
    advice = "" if is_clipped else f"; {clip_advice(manifest)}"
    problem = f"its samples have a mean magnitude of {size:.3g}, and {whose} stay within {known or limit:g}{advice}"
    yield Figure(MAGNITUDE, size, limit, True, problem)
    spread = float(values.std()) / size if size else 0.0
    yield Figure("spread", spread, LEAST_EFFECT, False, "all its values are equal")


def _distance_figures(run: ReferenceRun, manifest: Manifest) -> Iterator[Figure]:
    """Yield the distance of the samples from the data, relative to the variance of the data, if its statistics are
    stored.

    Samples of few seeds differ from the data without a fault. So do those of user-supplied conditions, which may be a
    small part of the data, and of random values of conditions that are not realistic.
    """
    batch, is_random = run.batch, bool(random_conditions(manifest.conditions))
    if manifest.data_moments is None or len(batch.seeds) < FEWEST or is_random or not are_drawn(manifest, batch):
        return
    (mean, deviation), values = manifest.data_moments, run.sample.astype(np.float64)
    problem = (
        f"its samples (mean {values.mean():.3g}, standard deviation {values.std():.3g}) are not better than the mean"
        f" of the data ({mean:.3g}, {deviation:.3g})"
    )
    distance = distance_from_data(run.sample, manifest.data_moments)
    yield Figure("distance from the data", distance, MOST_DISTANCE, True, problem)


def _effect_figures(sampler: Sampler, run: ReferenceRun) -> Iterator[Figure]:
    """Yield the effects of the seed and of the conditions on samples, relative to the size of samples.

    The seed needs no effect if the plan draws no noise, or if it restores a given sample, which may have one answer.
    Conditions need none if they have one value, or if the plan does not read them.
    """
    batch, sample = run.batch, run.sample.astype(np.float64)
    count = min(len(OTHER_SEEDS), len(batch.seeds))
    own = batch.first(count)
    size = float(np.sqrt(np.square(sample[:count]).mean())) or 1.0

    def effect(changed: SeedBatch) -> float:
        call = sampler.step_call(run.plan, count, changed.conditions)
        other = run_reference(run.plan, changed, call.step_network).sample
        return float(np.sqrt(np.square(other - sample[:count]).mean())) / size

    if _draws_noise(run.plan) and sampler.bundle.manifest.towards is None:
        seeds = effect(replace(own, seeds=OTHER_SEEDS[:count]))
        yield Figure("effect of seeds", seeds, LEAST_EFFECT, False, "its samples do not depend on the seed")
    others = {name: np.roll(values, -1, axis=0)[:count] for name, values in batch.conditions.items()}
    varying = [name for name, values in others.items() if not np.array_equal(values, own.conditions[name])]
    if varying and any(COND in step.branches for step in run.plan.steps):
        conditions = effect(replace(own, conditions=others))
        problem = f"its samples do not depend on {', '.join(varying)}"
        yield Figure("effect of conditions", conditions, LEAST_EFFECT, False, problem)


def _find_usable_plan(sampler: Sampler, run: ReferenceRun) -> tuple[str | None, int]:
    """Return the name of the plan with the fewest doubled steps, up to MOST_STEPS, whose samples keep all limits, and
    the most steps that were tried. The name is None if there is none, or if the plan's name has no number of steps."""
    plan, parts, tried = run.plan, split_plan_name(run.plan.name), 0
    if not (is_plan_name(plan.name) or parts.is_of_scheduler) or not parts.has_step_count:
        return None, 0
    count = len(OTHER_SEEDS) if sampler.bundle.manifest.data_moments is None else FEWEST
    steps, batch = 2 * int(parts.steps), run.batch.first(count)
    with suppress(UserError):  # a plan that does not exist with that number of steps, or whose samples are not finite
        while steps <= MOST_STEPS:
            longer = _compile_longer(sampler, plan, steps)
            call = sampler.step_call(longer, len(batch.seeds), batch.conditions)
            longer_run = run_reference(longer, batch, call.step_network)
            if all(figure.is_kept for figure in reference_figures(sampler, longer_run)):
                return with_steps(plan.name, steps), steps
            steps, tried = 2 * steps, steps
    return None, tried


def _compile_longer(sampler: Sampler, plan: Plan, steps: int) -> Plan:
    """Return a named plan with more steps, and with the same guidance and shaping."""
    settings: PlanSettings = {} if split_plan_name(plan.name).is_of_scheduler else {"shaping": shaping_of(plan)}
    guidance = respread_weights(plan.guidance, len(plan.steps), steps)
    return check_compiled(sampler.plans.compile(parse_plan_text(with_steps(plan.name, steps)), guidance, settings))


def _draws_noise(plan: Plan) -> bool:
    """Return whether samples depend on the seed: whether a step draws noise, or the start reads its draws."""
    return plan.is_stochastic or bool(plan.start_terms) or any(any(row[len(plan.given) :]) for row in plan.start)
