"""What would bring a plan's samples nearer to the teacher: each single change of the plan, tried on a few seeds.

The distance of deployed samples to the teacher has four causes: int8, too few steps, their grid, and guidance, which
makes trajectories harder to follow. Fitted numbers answer steps and grid. Each change is tried alone, and gains of two
do not add up.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fewstep.evaluation.results import Change, Remedy
from fewstep.plans.default_grid import default_grid
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance
from fewstep.plans.name import with_grid, with_steps
from fewstep.plans.plan import Plan, shaping_of
from fewstep.rollouts.conditions_file import ConditionRecords
from fewstep.rollouts.held_out import held_out_conditions
from fewstep.rollouts.metrics import psnr
from fewstep.runtime.fitted_plans import FITTED
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampler import Sampler

Floats = NDArray[np.floating]


def remedies(
    sampler: Sampler,
    plan: Plan,
    teacher: Plan,
    lessons: Floats,
    rows: ConditionRecords | None = None,
    progress: Progress = SILENT,
) -> tuple[Remedy, ...]:
    """Changes of `plan` by the float32 sampler: twice the steps, the default grid of new bundles, no guidance, the
    numbers of a fit.

    `lessons` are the teacher's samples of the first held-out seeds. Without guidance both sides are without it. A
    change that a plan has not, such as the grid of one that is on it already, is left out.
    """
    seeds = range(len(lessons))
    held_out = held_out_conditions(sampler.bundle.manifest.conditions, seeds, rows)
    gains = []
    for change, changed in changes(sampler, plan):
        progress(f"trying {changed.name}", 0, len(changed.steps))
        references = lessons
        try:
            if change == "guidance":
                references = sampler.sample(_compiled(sampler, teacher.name, None, teacher), seeds, held_out)
            samples = sampler.sample(changed, seeds, held_out)
        except UserError:  # not finite: no remedy
            continue
        gains.append(Remedy(change, changed.name, float(psnr(samples, references).mean()), len(seeds)))
        progress(f"trying {changed.name}", len(changed.steps), len(changed.steps))
    return tuple(gains)


def changes(sampler: Sampler, plan: Plan) -> Iterator[tuple[Change, Plan]]:
    """Changes of a plan that its name allows: one of a scheduler has none. A fitted plan gives way to the plan that it
    began as, and has times of its own in the place of a grid."""
    manifest = sampler.bundle.manifest
    nominal = plan.name if plan.fitted is None else plan.fitted.nominal
    name, _, rest = nominal.partition(":")
    steps = rest.partition("@")[0]
    if not steps.isdecimal():
        return
    tried: list[tuple[Change, str, Guidance | None]] = [("steps", with_steps(nominal, 2 * int(steps)), plan.guidance)]
    if plan.fitted is None:
        grid = default_grid(manifest.schedule, manifest.prediction)
        tried.append(("grid", f"{name}:{steps}@{grid}", plan.guidance))
    if plan.guidance is not None:
        tried.append(("guidance", nominal, None))
    for change, text, guidance in tried:
        try:
            changed = _compiled(sampler, text, guidance, plan)
        except UserError:
            continue
        if changed.steps != plan.steps:
            yield change, changed
    if plan.fitted is None:
        yield from _fitted(sampler, plan)


def _fitted(sampler: Sampler, plan: Plan) -> Iterator[tuple[Change, Plan]]:
    """The plan of most evaluations, but no more than this one has, that was fitted to this body for the same use."""
    counts = {each.evaluations for each in sampler.bundle.manifest.fitted if each.evaluations <= len(plan.steps)}
    for count in sorted(counts, reverse=True):
        try:
            fitted = sampler.compile(
                f"{FITTED}{count}", plan.guidance, shaping=shaping_of(plan), strength=plan.strength
            )
        except UserError:  # of another body or guidance
            continue
        if fitted.steps != plan.steps:
            yield "fit", fitted
        return


def _compiled(sampler: Sampler, name: str, guidance: Guidance | None, like: Plan) -> Plan:
    """A plan by the name that a plan had, with the shaping of another."""
    return sampler.compile(with_grid(name), guidance, shaping=shaping_of(like))
