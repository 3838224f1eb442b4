"""Samplers for distilled denoisers, whose predicted x0 is trained to be the end of the trajectory instead of the mean
of all possible ends.

A step goes towards x0, then adds noise up to the next time. It goes to x0 itself (`renoise`, `lcm`, `consistency`) or
part of the way (`tcd`, `ctm`). The step to the clean end adds no noise, so with one step these are one-step generators.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import floor, hypot, log, sqrt

from fewstep.plans.errors import UserError
from fewstep.plans.paths import sigma_range
from fewstep.plans.publication import Published
from fewstep.plans.schedule import CLEAN, Time
from fewstep.plans.solvers import ancestral
from fewstep.plans.solvers.exponential import first_order
from fewstep.plans.solvers.parameters import check_not_negative, check_share
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

SONG = "Song et al. 2023, arXiv 2303.01469"


@Published(SONG, order=None, rows=1, distilled=True, tied=True)
def renoise(trace: Tracer, times: Sequence[Time]) -> Lin:
    """Multistep consistency sampling (Song, Dhariwal, Chen, Sutskever 2023, arXiv 2303.01469, Algorithm 1) of a
    denoiser whose x0 is the consistency function: x_t = alpha_t x0 + sigma_t z.

    The following samplers have the same coefficients: diffusers' flows with `stochastic_sampling`, sCM, and the sampler
    of distilled (turbo, lightning) models that adds full noise at each step.
    """
    x = trace.start()
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        x = _add_noise(trace, x0, t)
    return x


@Published("Luo et al. 2023, arXiv 2310.04378", order=None, rows=1, distilled=True)
def lcm(trace: Tracer, times: Sequence[Time], *, sigma_data: float = 0.5, timestep_scaling: float = 10.0) -> Lin:
    """Latent consistency models (Luo, Tan, Huang, Li, Zhao 2023, arXiv 2310.04378): x0 is forced to equal x at time 0.

    The consistency function is c_skip x + c_out x0 with c_skip = sigma_data^2 / (u^2 + sigma_data^2) and c_out = u /
    sqrt(u^2 + sigma_data^2) at u = timestep_scaling * t, where t is the time that the network receives, as in the
    authors' code. From the second timestep on it nearly equals x0.
    """
    check_not_negative("sigma_data", sigma_data)
    check_not_negative("timestep_scaling", timestep_scaling)
    _check_timesteps("lcm", trace)
    x = trace.start()
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        u = timestep_scaling * s.network
        c_skip, c_out = sigma_data**2 / (u**2 + sigma_data**2), u / hypot(u, sigma_data)
        x = _add_noise(trace, c_skip * x + c_out * x0, t)
    return x


@Published(SONG, order=None, rows=1, distilled=True, tied=True)
def consistency(trace: Tracer, times: Sequence[Time]) -> Lin:
    """Consistency models (Song, Dhariwal, Chen, Sutskever 2023, arXiv 2303.01469, Algorithm 1): like `renoise`, but x0
    is assumed to contain the noise sigma_min already, so a step adds noise of variance rho_t^2 - sigma_min^2.

    The prediction `consistency` forces x0 = x at sigma_min, as the paper does. sigma_min is 0 for schedules without
    one.
    """
    sigma_min, _ = sigma_range(trace.schedule.spec)
    x = trace.start()
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        x = t.alpha * x0
        variance = t.sigma**2 - (t.alpha * sigma_min) ** 2
        if variance > 0:
            x = x + sqrt(variance) * trace.noise()
    return x


@Published("Zheng et al. 2024, arXiv 2402.19159", order=None, rows=1, distilled=True)
def tcd(trace: Tracer, times: Sequence[Time], *, gamma: float = 0.3) -> Lin:
    """Trajectory consistency distillation (Zheng, Hu, Fan, Wang, Ding, Cao, Song 2024, arXiv 2402.19159): strategic
    stochastic sampling.

    A DDIM step to the network's time (1 - gamma) t, rounded down to a whole timestep on discrete schedules. Then noise
    is added up to t. `gamma` is in [0, 1]: 0 is `ddim`. With 1 every step goes to time 0 and back, which is nearly
    `renoise`.
    """
    check_share("gamma", gamma)
    _check_timesteps("tcd", trace)
    x = trace.start()
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        less = (1 - gamma) * t.network
        less = less if trace.schedule.timesteps is None else floor(less)
        low = trace.schedule.time(less) if gamma and less < t.network else t
        x = ancestral.add_noise(trace, first_order(x, x0, s, low), low, t)
    return x


@Published("Kim et al. 2024, arXiv 2310.02279", order=None, rows=1, distilled=True, tied=True)
def ctm(trace: Tracer, times: Sequence[Time], *, gamma: float = 0.0) -> Lin:
    """Consistency trajectory models (Kim, Lai, Liao, Murata, Takida, Uesaka, He, Mitsufuji, Ermon 2024, arXiv
    2310.02279): gamma-sampling. The network receives the times of both ends.

    A jump to rho = sqrt(1 - gamma^2) rho_t, then noise up to rho_t. `gamma` is in [0, 1]: 0 follows the trajectory, 1
    is consistency sampling.
    """
    check_share("gamma", gamma)
    x = trace.start()
    for s, t in pairwise(times):
        low = t
        if gamma and t.sigma > 0:
            low = CLEAN if gamma == 1 else trace.schedule.time_at_lam(t.lam - log(1 - gamma**2) / 2)
        x, x0 = trace.denoise(x, s, to=low)
        x = ancestral.add_noise(trace, first_order(x, x0, s, low), low, t)
    return x


def _add_noise(trace: Tracer, x0: Lin, t: Time) -> Lin:
    """Return a sample of q(x_t | x0)."""
    return t.alpha * x0 + t.sigma * trace.noise() if t.sigma > 0 else t.alpha * x0


def _check_timesteps(name: str, trace: Tracer) -> None:
    """Raise UserError for a schedule without timesteps. Discrete schedules have them, and so do flows (1000 sigma)."""
    schedule = trace.schedule
    if schedule.timesteps is None and schedule.spec.kind != "flow":
        raise UserError(
            f"{name} needs timesteps, which schedule {schedule.name} does not have", "use renoise or consistency"
        )
