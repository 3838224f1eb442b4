"""The plan from which a fit starts: the one that the caller names, or the best of several known plans on a few
seeds."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from fewstep.fitting.blocks import Block
from fewstep.fitting.recurrence import extract_recurrence
from fewstep.fitting.rollouts import FitSampler
from fewstep.fitting.teacher_path import CHOICES, find_path
from fewstep.plans.any_plan import PlanReference, check_compiled
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance
from fewstep.plans.names.plan_reference import TextReference, join_plan_name, parse_plan_text, split_plan_name
from fewstep.plans.plan import Plan
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.execution import NO_SETTINGS
from fewstep.runtime.sampling.sampler import Sampler

LOG = logging.getLogger("fewstep")
STARTS = (  # solver, grid: some are by far the best for one denoiser, but none for all (lab/measured/nominal.md)
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
    """The plans from which a fit may start.

    nominal: plans that were not fitted. Gains are measured relative to the best of them.
    request: the plan that the caller named, from which the fit then starts. If it is None, the fit starts from the best
        of `nominal`, or from the plan of `find_best_on_path`.
    """

    nominal: tuple[Plan, ...]
    request: Plan | None = None

    @property
    def plans(self) -> tuple[Plan, ...]:
        return self.nominal if self.request is None else (self.request,)

    @property
    def path_solvers(self) -> tuple[str, ...]:
        """The solvers that are tried on times of the teacher's path. Empty if the caller named a plan, or if the path
        does not offer more times (CHOICES) than the plan has steps."""
        return SOLVERS if self.request is None and len(self.nominal[0].steps) < CHOICES else ()


def select_starts(sampler: Sampler, reference: TextReference | None, steps: int, guidance: Guidance | None) -> Starts:
    """Return the plan that `reference` names, or the known plans if it is None. Raises UserError if the plan cannot be
    fitted."""
    if reference is None:
        return Starts(candidate_plans(sampler, steps, guidance))
    plan = _compile(sampler, reference, guidance)
    extract_recurrence(plan)  # raises UserError for a plan that cannot be fitted
    if len(plan.steps) != steps:
        what = f"plan {plan.name!r} has {len(plan.steps)} evaluations, but --steps is {steps}"
        raise UserError(what, "give the same number in both")
    if plan.fitted is None:
        return Starts((plan,), plan)
    nominal = candidate_plans(sampler, steps, plan.guidance)  # a plan file has its own guidance
    return Starts(nominal, _compile(sampler, msgspec.structs.replace(plan, fitted=None), None))


def _compile(sampler: Sampler, reference: PlanReference, guidance: Guidance | None) -> Plan:
    """Compile a plan without the shaping of the calibration, since fitted plans have none."""
    return check_compiled(sampler.plans.compile(reference, guidance, NO_SETTINGS))


def candidate_plans(sampler: Sampler, steps: int, guidance: Guidance | None) -> tuple[Plan, ...]:
    """Return the plans of STARTS with `steps` evaluations that compile for this denoiser and can be fitted."""
    plans = _compile_plans(sampler, STARTS, steps, guidance)
    if not plans:
        raise UserError("no known plan suits this denoiser", "name one to start from: --plan SOLVER:STEPS")
    return plans


def find_best_on_path(
    rolled: FitSampler, teacher: Plan, nominal: Plan, seen: Sequence[Block], blocks: Sequence[Block]
) -> Plan | None:
    """Return the plan with the best samples on `blocks` among the solvers of SOLVERS, each over times of the teacher's
    path on the blocks `seen`.

    The times are selected from CHOICES times of the nominal plan's grid. Returns None and logs the reason if the path
    is unknown (`fitting.teacher_path.teacher_states`), or if no samples are finite.
    """
    steps = len(nominal.steps)
    try:
        name = join_plan_name("ddim", CHOICES, split_plan_name(nominal.name).grid)
        probe = _compile(rolled.sampler, parse_plan_text(name), nominal.guidance)
        *places, _ = find_path(rolled.reference, teacher, seen, probe, steps)
        grid = f"custom(times={tuple(probe.steps[place].time for place in places)})"
        names = [(solver, grid) for solver in SOLVERS]
        return find_best_start(rolled, _compile_plans(rolled.sampler, names, steps, nominal.guidance), blocks)
    except UserError as error:
        LOG.info("the fit does not start on the teacher's path: %s", error.what)
        return None


def _compile_plans(
    sampler: Sampler, names: Sequence[tuple[str, str]], steps: int, guidance: Guidance | None
) -> tuple[Plan, ...]:
    """Return the plans of these solvers and grids that compile, can be fitted and have `steps` evaluations."""
    plans = []
    for solver, grid in names:
        try:
            plan = _compile(sampler, parse_plan_text(f"{solver}:{steps}@{grid}"), guidance)
            extract_recurrence(plan)
        except UserError:
            continue
        if len(plan.steps) == steps:
            plans.append(plan)
    return tuple(plans)


def find_best_start(
    rolled: FitSampler, plans: Sequence[Plan], blocks: Sequence[Block], progress: Progress = SILENT
) -> Plan:
    """Return the plan with finite samples and the highest mean PSNR on some blocks. Raises UserError if no plan has
    finite samples."""
    finite = []
    for count, (plan, qualities) in enumerate(zip(plans, rolled.try_plans(plans, blocks), strict=True)):
        if qualities is not None:
            finite.append((float(qualities.mean()), plan))
        progress("nominal plans", count + 1, len(plans))
    if not finite:
        what = f"no sample of {', '.join(plan.name for plan in plans)} is finite"
        raise UserError(what, "name another plan to start from: --plan SOLVER:STEPS@GRID")
    return max(finite, key=lambda pair: pair[0])[1]
