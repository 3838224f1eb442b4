"""Compile a token plan by its name: the steps of a sampler, with times, branches and range groups."""

import math
from collections.abc import Sequence

import msgspec

from fewstep.plans.compile import check_guidance
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import CfgPlusPlus, Guidance, Residual, Steer, branch_weights
from fewstep.plans.plan import group_of
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import DenoiserFacts
from fewstep.plans.tokens.plan import SCHEMA, TokenPlan, token_plan_problem
from fewstep.plans.tokens.samplers import TokenPlanName


def compile_tokens(
    name: str | TokenPlanName,
    denoiser: DenoiserFacts,
    shape: Sequence[int],
    vocabulary: int,
    guidance: float | Guidance | None = None,
    groups: Sequence[float] = (),
) -> TokenPlan:
    """Compile a token plan by its name, SAMPLER:STEPS, for samples of a shape.

    Args:
        name: parsed or not.
        guidance: a form that is a sum over branches, or the weight w of classifier-free guidance.
        groups: increasing edges of lambda, which give each step its range group.
    """
    from fewstep.plans.grids.ends import check_steps  # all solvers and grids: not for who only runs plans
    from fewstep.plans.names.plan_name import parse_token_plan_name

    form, schedule = check_guidance(guidance, denoiser), NoiseSchedule(denoiser.schedule)
    if isinstance(form, CfgPlusPlus | Residual | Steer):
        raise UserError(f"guidance {form} along a token plan", "give a weight, Branches or Pag")
    parsed = parse_token_plan_name(name) if isinstance(name, str) else name
    check_steps(schedule, parsed.steps, distinct=False)
    count, share, steps = math.prod(shape), 1.0, []
    for index, step in enumerate(parsed.sampler(tuple(shape), parsed.steps)):
        lam = None if share >= 1 else math.log1p(-share) - math.log(share)
        branches = branch_weights(form, index, -math.inf if lam is None else lam)
        told = schedule.clock(min(share, 1.0)).network
        placed = {"time": told, "lam": lam, "group": group_of(lam, groups)}
        own = {"branches": tuple(branches), "weights": tuple(branches.values())}
        steps.append(msgspec.structs.replace(step, **placed, **own))
        shown = step.chance if step.chance is not None else step.reveal / count / share
        share = max(share * (1 - shown) + (1 - share) * step.again, 1 / (2 * count))  # open ones, in the mean
    plan = TokenPlan(SCHEMA, parsed.text, schedule.fingerprint, vocabulary, tuple(shape), form, tuple(steps))
    if problem := token_plan_problem(plan):
        raise UserError(
            f"plan {parsed.text!r} cannot be: {problem}", "change a number (`fewstep plan --list` has the usual)"
        )
    return plan
