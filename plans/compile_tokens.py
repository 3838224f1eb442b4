"""Compile a token plan by name: the steps of a sampler, with times, branches and range groups."""

import math
from collections.abc import Sequence

import msgspec

from fewstep.plans.compile import check_guidance
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import CfgPlusPlus, Guidance, Residual, Steer, branch_weights
from fewstep.plans.names.plan_reference import NameParts
from fewstep.plans.plan import group_of
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import DenoiserFacts
from fewstep.plans.tokens.plan import SCHEMA, TokenPlan, token_plan_problem
from fewstep.plans.tokens.samplers import TokenPlanName


def compile_tokens(
    name: str | NameParts | TokenPlanName,
    denoiser: DenoiserFacts,
    shape: Sequence[int],
    vocabulary: int,
    guidance: float | Guidance | None = None,
    groups: Sequence[float] = (),
) -> TokenPlan:
    """Compile a token plan by its name, SAMPLER:STEPS, for samples of `shape`.

    Args:
        name: as text, split into its parts, or parsed.
        guidance: the weight w of classifier-free guidance, or guidance that is a weighted sum over branches.
        groups: increasing edges of lambda, which give each step its range group.

    Raises UserError for any other guidance, and for numbers that give no valid plan.
    """
    from fewstep.plans.grids.ends import check_steps  # loads all solvers and grids, which running a plan does not need
    from fewstep.plans.names.token_plan_name import parse_token_plan_name

    form, schedule = check_guidance(guidance, denoiser), NoiseSchedule(denoiser.schedule)
    if isinstance(form, CfgPlusPlus | Residual | Steer):
        raise UserError(f"a token plan cannot use guidance {form}", "give a weight, Branches or Pag")
    parsed = name if isinstance(name, TokenPlanName) else parse_token_plan_name(name)
    check_steps(schedule, parsed.steps, distinct=False)
    count, share, steps = math.prod(shape), 1.0, []
    for index, step in enumerate(parsed.sampler(tuple(shape), parsed.steps)):
        lam = None if share >= 1 else math.log1p(-share) - math.log(share)
        branches = branch_weights(form, index, -math.inf if lam is None else lam)
        time = schedule.clock(min(share, 1.0)).network
        position = {"time": time, "lam": lam, "group": group_of(lam, groups)}
        guided = {"branches": tuple(branches), "weights": tuple(branches.values())}
        steps.append(msgspec.structs.replace(step, **position, **guided))
        revealed = step.chance if step.chance is not None else step.reveal / count / share
        share = max(share * (1 - revealed) + (1 - share) * step.again, 1 / (2 * count))  # mean share of open positions
    plan = TokenPlan(SCHEMA, parsed.text, schedule.fingerprint, vocabulary, tuple(shape), form, tuple(steps))
    if problem := token_plan_problem(plan):
        raise UserError(
            f"plan {parsed.text!r} is not valid: {problem}", "change a number (`fewstep plan --list` shows the usual)"
        )
    return plan
