"""The plan that a fit begins as: the one that is named, or the best of some known ones on a few seeds of the fit."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from fewstep.fitting.blocks import Block
from fewstep.fitting.recurrence import recurrence_of
from fewstep.fitting.rollouts import Rollouts
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode
from fewstep.plans.guidance import Guidance, describe
from fewstep.plans.plan import Plan
from fewstep.runtime.fitted_plans import FITTED
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampler import Sampler

STARTS = (  # solver, grid: some are far ahead on one denoiser, and none on all (docs/measured/nominal.md)
    ("dpmpp_2m", "ays_svd"),
    ("dpmpp_2m", "arctan"),
    ("dpmpp_2m", "trailing"),
    ("dpmpp_2m", "quadratic"),
    ("gradient_estimation", "trailing"),
    ("gradient_estimation", "quadratic"),
    ("unipc_2", "ays_svd"),
    ("unipc_2", "arctan(centre=2, power=1.5)"),
)


@dataclass(frozen=True)
class Start:
    """A plan that a fit begins as, and the one without fitted numbers that its gains are over: the same, or the one
    that an earlier fit began as."""

    plan: Plan
    nominal: Plan


def named_start(sampler: Sampler, name: str, steps: int, guidance: Guidance | None) -> Start:
    """The plan of a name or of a file. `fitted:N` is that of this body, else that of another one.

    Raises UserError for a plan that no fit can begin as.
    """
    if name.startswith(FITTED):
        found = fitted_starts(sampler, steps, guidance, is_own=True) + fitted_starts(sampler, steps, guidance)
        if name != f"{FITTED}{steps}" or not found:
            what = (
                f"{sampler.bundle.path} has no plan {name!r} of {steps} evaluations for guidance {describe(guidance)}"
            )
            raise UserError(what, "name SOLVER:STEPS@GRID, or leave --plan out")
        return found[0]
    start = _begun(sampler, sampler.compile(name, guidance), guidance)
    recurrence_of(start.plan)  # refuses what cannot be fitted
    if len(start.plan.steps) != steps:
        what = f"plan {start.plan.name!r} has {len(start.plan.steps)} evaluations, and --steps is {steps}"
        raise UserError(what, "give the same number of both")
    return start


def fitted_starts(sampler: Sampler, steps: int, guidance: Guidance | None, is_own: bool = False) -> tuple[Start, ...]:
    """The plans that were fitted to other bodies of the bundle, or to this one, for the same use."""
    bundle = sampler.bundle
    found = []
    for entry in bundle.manifest.fitted:
        if entry.evaluations == steps and (bundle.manifest.bodies[entry.body] == sampler.body) == is_own:
            plan = decode(bundle.read(entry.file), entry.file)
            if plan.guidance == guidance and plan.strength is None and {each.shaping for each in plan.steps} == {None}:
                found.append(_begun(sampler, plan, guidance))
    return tuple(found)


def _begun(sampler: Sampler, plan: Plan, guidance: Guidance | None) -> Start:
    """A fitted plan loses its mark: another body may run it."""
    if plan.fitted is None:
        return Start(plan, plan)
    own = sampler.compile(msgspec.structs.replace(plan, fitted=None))
    return Start(own, sampler.compile(plan.fitted.nominal, guidance))


def candidates(sampler: Sampler, steps: int, guidance: Guidance | None) -> tuple[Plan, ...]:
    """The plans of STARTS that this schedule has, with so many evaluations, and that a fit can begin at."""
    found = []
    for solver, grid in STARTS:
        try:
            plan = sampler.compile(f"{solver}:{steps}@{grid}", guidance)
            recurrence_of(plan)
        except UserError:
            continue
        if len(plan.steps) == steps:
            found.append(plan)
    if not found:
        raise UserError("no known plan suits this denoiser", "name one to begin at: --plan SOLVER:STEPS")
    return tuple(found)


def best_start(rolled: Rollouts, plans: Sequence[Plan], blocks: Sequence[Block], progress: Progress = SILENT) -> Plan:
    """The plan with the highest mean PSNR on some blocks, of those whose samples are finite. UserError without one."""
    found = []
    for plan, qualities in zip(plans, rolled.tried(plans, blocks), strict=True):
        found.append((None if qualities is None else float(qualities.mean()), plan))
        progress("nominal plans", len(found), len(plans))
    finite = [(quality, plan) for quality, plan in found if quality is not None]
    if not finite:
        what = f"no sample of {', '.join(plan.name for plan in plans)} is finite"
        raise UserError(what, "name another plan to begin at: --plan SOLVER:STEPS@GRID")
    return max(finite, key=lambda known: known[0])[1]
