"""The plan that a fit begins as: the one that is named, or the best of some known ones on a few seeds of the fit."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from fewstep.fitting.blocks import Block
from fewstep.fitting.recurrence import extract_recurrence
from fewstep.fitting.rollouts import FitSampler
from fewstep.fitting.teacher_path import CHOICES, find_path
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance
from fewstep.plans.plan import Plan
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.sampler import Sampler

LOG = logging.getLogger("fewstep")
STARTS = (  # solver, grid: some are far ahead on one denoiser, and none on all (docs/measured/nominal.md)
    ("dpmpp_2m", "ays_svd"),
    ("dpmpp_2m", "arctan"),
    ("dpmpp_2m", "trailing"),
    ("dpmpp_2m", "quadratic"),
    ("gradient_estimation", "trailing"),
    ("gradient_estimation", "quadratic"),
    ("gradient_estimation", "ays_svd"),
    ("gradient_estimation", "arctan"),
    ("ipndm", "ays_svd"),
    ("ipndm", "arctan"),
    ("unipc_2", "ays_svd"),
    ("unipc_2", "arctan"),
    ("unipc_2", "arctan(centre=2, power=1.5)"),
)
SOLVERS = tuple(dict.fromkeys(solver for solver, _ in STARTS))


@dataclass(frozen=True)
class Starts:
    """The plans that a fit may begin as.

    nominal: plans without fitted numbers; gains are over the best of them. request: the plan that was asked for. The
    fit begins as this one, or else as the best of the nominal ones or as `find_best_on_path`.
    """

    nominal: tuple[Plan, ...]
    request: Plan | None = None

    @property
    def plans(self) -> tuple[Plan, ...]:
        return self.nominal if self.request is None else (self.request,)

    @property
    def path_solvers(self) -> tuple[str, ...]:
        """The solvers that compete over times of the teacher's path; none where a plan was asked for, or has as many
        steps as the path has choices."""
        return SOLVERS if self.request is None and len(self.nominal[0].steps) < CHOICES else ()


def select_starts(sampler: Sampler, name: str, steps: int, guidance: Guidance | None) -> Starts:
    """The plan of a name or of a file; without one, the known plans. Raises UserError for a plan that no fit can begin
    as."""
    if not name:
        return Starts(candidate_plans(sampler, steps, guidance))
    plan = sampler.compile(name, guidance)
    extract_recurrence(plan)  # refuses what cannot be fitted
    if len(plan.steps) != steps:
        what = f"plan {plan.name!r} has {len(plan.steps)} evaluations, and --steps is {steps}"
        raise UserError(what, "give the same number of both")
    if plan.fitted is None:
        return Starts((plan,), plan)
    return Starts(
        candidate_plans(sampler, steps, guidance), sampler.compile(msgspec.structs.replace(plan, fitted=None))
    )


def candidate_plans(sampler: Sampler, steps: int, guidance: Guidance | None) -> tuple[Plan, ...]:
    """The plans of STARTS that this schedule has, with so many evaluations, and that a fit can begin at."""
    plans = _compile_plans(sampler, STARTS, steps, guidance)
    if not plans:
        raise UserError("no known plan suits this denoiser", "name one to begin at: --plan SOLVER:STEPS")
    return plans


def find_best_on_path(
    rolled: FitSampler, teacher: Plan, nominal: Plan, seen: Sequence[Block], blocks: Sequence[Block]
) -> Plan | None:
    """The best on some blocks of SOLVERS, over times of the teacher's path on the blocks that were seen.

    The path goes through CHOICES times of the nominal plan's grid, more than its steps. None where it is unknown
    (`fitting.teacher_path.teacher_states`), or leads to no finite samples; a line of the log says why.
    """
    steps = len(nominal.steps)
    try:
        probe = rolled.sampler.compile(f"ddim:{CHOICES}{''.join(nominal.name.partition('@')[1:])}", nominal.guidance)
        *places, _ = find_path(rolled.reference, teacher, seen, probe, steps)
        grid = f"custom(times={tuple(probe.steps[place].time for place in places)})"
        names = [(solver, grid) for solver in SOLVERS]
        return find_best_start(rolled, _compile_plans(rolled.sampler, names, steps, nominal.guidance), blocks)
    except UserError as error:
        LOG.info("the fit does not begin on the teacher's path: %s", error.what)
        return None


def _compile_plans(
    sampler: Sampler, names: Sequence[tuple[str, str]], steps: int, guidance: Guidance | None
) -> tuple[Plan, ...]:
    """The plans of these solvers and grids that a fit can begin at."""
    plans = []
    for solver, grid in names:
        try:
            plan = sampler.compile(f"{solver}:{steps}@{grid}", guidance)
            extract_recurrence(plan)
        except UserError:
            continue
        if len(plan.steps) == steps:
            plans.append(plan)
    return tuple(plans)


def find_best_start(
    rolled: FitSampler, plans: Sequence[Plan], blocks: Sequence[Block], progress: Progress = SILENT
) -> Plan:
    """The plan with the highest mean PSNR on some blocks, of those whose samples are finite. UserError without one."""
    finite = []
    for count, (plan, qualities) in enumerate(zip(plans, rolled.try_plans(plans, blocks), strict=True)):
        if qualities is not None:
            finite.append((float(qualities.mean()), plan))
        progress("nominal plans", count + 1, len(plans))
    if not finite:
        what = f"no sample of {', '.join(plan.name for plan in plans)} is finite"
        raise UserError(what, "name another plan to begin at: --plan SOLVER:STEPS@GRID")
    return max(finite, key=lambda pair: pair[0])[1]
