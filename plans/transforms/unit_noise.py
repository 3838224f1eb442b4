"""Plans that start from standard normal noise, as many published sampling loops do."""

import msgspec

from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.plans.transforms.start_checks import check_start, noise_levels


def use_unit_noise(plan: Plan) -> Plan:
    """Return the plan with the start x = z instead of x = sigma_T z, for z ~ N(0, 1).

    DDPM (Ho et al. 2020, Algorithm 2), DDIM (Song et al. 2021), DiffWave (Kong et al. 2021) and most schedulers of
    diffusers start in this way. A denoiser was trained on alpha_T x0 + sigma_T eps, whose noise has standard deviation
    sigma_T. The two starts agree if that is 1.

    Args:
        plan: starts from noise only, on a schedule with alpha^2 + sigma^2 = 1.

    Raises UserError for other plans. On exploding schedules sigma_T is as large as 80, so unit noise would be almost
    no noise.
    """
    check_start(plan)
    first = noise_levels(plan)[0]
    if abs(first.alpha**2 + first.sigma**2 - 1) > 1e-6:
        raise UserError(
            f"plan {plan.name!r} starts at alpha {first.alpha:g} and sigma {first.sigma:g}, too far from unit noise",
            "leave its start unchanged",
        )
    rows = tuple(tuple(1.0 if number else 0.0 for number in row) for row in plan.start)
    return msgspec.structs.replace(plan, start=rows)
