"""Grids of rectified flows: evenly spaced in time, then shifted towards the noise. Larger images need a larger
shift."""

from math import cos, exp, pi

from fewstep.plans.errors import UserError
from fewstep.plans.grids.ends import append_end, check_steps
from fewstep.plans.schedule import NoiseSchedule, Time

SWAY_LIMIT = 2 / (pi - 2)  # a larger coefficient does not decrease sigma at every step


def flow_shift(
    schedule: NoiseSchedule, steps: int, *, shift: float = 3.0, terminal: float | None = None
) -> tuple[Time, ...]:
    """sigma' = shift sigma / (1 + (shift - 1) sigma) for sigmas 1, 1 - 1 / steps, ...: Esser et al. 2024,
    arXiv 2403.03206, equation 23 (shift 3 for Stable Diffusion 3 at 1024 x 1024).

    `terminal`: stretch 1 - sigma so that the last evaluation is at this sigma (LTX-Video's shift_terminal). One step is
    from 1 to 0.
    """
    check_steps(schedule, steps)
    if schedule.spec.kind != "flow":
        raise UserError(
            f"grid flow_shift needs a flow, and schedule {schedule.name} is not one", "use karras or trailing"
        )
    if not 0.01 <= shift <= 1000:
        raise UserError(f"grid flow_shift(shift={shift:g}) is out of range", "give a number in 0.01 .. 1000")
    even = [1 - i / steps for i in range(steps)]
    sigmas = [shift * sigma / (1 - sigma + shift * sigma) for sigma in even]  # exactly 1 for sigma 1
    if terminal is not None:
        if not 0 < terminal < 1:
            what = f"grid flow_shift(terminal={terminal:g}) is out of range"
            raise UserError(what, "give a terminal between 0 and 1")
        stretch = (1 - terminal) / (1 - sigmas[-1]) if steps > 1 else 1.0
        sigmas = [1 - (1 - sigma) * stretch for sigma in sigmas]
    return append_end(schedule, [schedule.time(schedule.spec.timesteps * sigma) for sigma in sigmas], None)


def sway(schedule: NoiseSchedule, steps: int, *, coefficient: float = -1.0) -> tuple[Time, ...]:
    """sigma' = sigma - c (cos(pi (1 - sigma) / 2) - sigma) of even sigmas 1, 1 - 1 / steps, ...: Chen et al. 2024,
    arXiv 2410.06885 (sway sampling of F5-TTS, whose time is 1 - sigma).

    `coefficient` c: with -1 the sigmas are cos(pi i / (2 steps)), most of them near the noise.
    """
    check_steps(schedule, steps)
    if schedule.spec.kind != "flow":
        raise UserError(f"grid sway needs a flow, and schedule {schedule.name} is not one", "use karras or trailing")
    if not -1 <= coefficient <= SWAY_LIMIT:
        what = f"grid sway(coefficient={coefficient:g}) is out of range"
        raise UserError(what, f"give a number in -1 .. {SWAY_LIMIT:.3g}")
    even = [1 - i / steps for i in range(steps)]
    sigmas = [sigma - coefficient * (cos(pi / 2 * (1 - sigma)) - sigma) for sigma in even]
    return append_end(schedule, [schedule.time(schedule.spec.timesteps * sigma) for sigma in sigmas], None)


def dynamic_shift(
    schedule: NoiseSchedule,
    steps: int,
    *,
    tokens: int = 4096,
    base_shift: float = 0.5,
    max_shift: float = 1.15,
    base_tokens: int = 256,
    max_tokens: int = 4096,
) -> tuple[Time, ...]:
    """`flow_shift` by e^mu with mu linear in the number of image tokens, as in FLUX.1 (Black Forest Labs 2024).

    mu is base_shift at base_tokens and max_shift at max_tokens. A 1024 x 1024 image has 4096 tokens in FLUX.1.
    """
    if tokens < 1 or base_tokens == max_tokens:
        raise UserError(
            f"grid dynamic_shift cannot interpolate {tokens} tokens between {base_tokens} and {max_tokens}",
            "give tokens from 1 up, and different base_tokens and max_tokens",
        )
    mu = base_shift + (max_shift - base_shift) * (tokens - base_tokens) / (max_tokens - base_tokens)
    if not -4 <= mu <= 6:
        raise UserError(
            f"grid dynamic_shift shifts by e^{mu:g} for {tokens} tokens, out of range",
            "give the tokens and shifts of the model",
        )
    return flow_shift(schedule, steps, shift=exp(mu))
