"""Time travel: after a block of steps, noise is added to the sample to return to the block's first time, and the block
is repeated."""

import math
from collections.abc import Iterator

import msgspec

from fewstep.plans.any_plan import check_compiled
from fewstep.plans.argument_checks import check_integer
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan, Step
from fewstep.plans.schedule import Time
from fewstep.plans.transforms.start_checks import noise_levels


def time_travel(plan: Plan, repeats: int, jump: int = 1, between: tuple[int, int] | None = None) -> Plan:
    """Return the plan with each block of `jump` steps repeated `repeats` times. Noise is added at the end of a block to
    return to its start.

    Repeats harmonise a held part of x, as in inpainting, with the rest (RePaint: Lugmayr et al. 2022, arXiv 2201.09865,
    Algorithm 1 and appendix B; cyclic one-way diffusion: Wang et al. 2023, arXiv 2306.08247). From (alpha_e, sigma_e)
    to the noisier (alpha_s, sigma_s), with a = alpha_s / alpha_e:

        x_s = a x_e + sqrt(sigma_s^2 - a^2 sigma_e^2) z,  with a new draw each time.

    Args:
        plan: a plan of a solver without memory, whose state is only x (one row).
        repeats: how often each block runs; 1 changes nothing.
        jump: number of steps of a block. Blocks are counted from the last step, which runs once.
        between: (first, end): steps from first to end - 1 are repeated; None repeats all but the last.
    """
    check_compiled(plan)
    last = len(plan.steps) - 1
    first, end = (0, last) if between is None else between
    if plan.rows != 1 or any(step.terms for step in plan.steps):
        raise UserError(f"plan {plan.name!r} remembers earlier steps", "use a solver of one row, such as ddim or ddpm")
    if plan.banks:
        raise UserError(
            f"plan {plan.name!r} carries {plan.banks[0].name!r}",
            "repeat no steps: repeated steps would read values that they stored themselves",
        )
    times = noise_levels(plan)
    repeats, jump = check_integer("repeats", repeats, 1), check_integer("jump", jump, 1)
    if not 0 <= first < end <= last or jump > end - first:
        raise UserError(
            f"steps {first} to {end} of plan {plan.name!r} hold no block of {jump} steps to repeat",
            f"repeat steps between 0 and {last}: the last one runs once",
        )
    starts = range(first + (end - first) % jump, end, jump)
    numbers = _unused_draws(plan)
    steps: list[Step] = list(plan.steps[: starts.start])
    for start in starts:
        block = plan.steps[start : start + jump]
        for repeat in range(repeats):
            taken = block if repeat == 0 else tuple(_redraw(step, numbers) for step in block)
            back = repeat < repeats - 1
            last_one = _add_noise(taken[-1], times[start], times[start + jump], numbers) if back else taken[-1]
            steps += [*taken[:-1], last_one]
    steps += plan.steps[end:]
    name = f"{plan.name}, {repeats} times in blocks of {jump}"
    return msgspec.structs.replace(plan, name=name, steps=tuple(steps), tail_of=None, first_step=0)


def _unused_draws(plan: Plan) -> Iterator[int]:
    """Yield numbers of draws that the plan does not read."""
    number = max((0, *plan.start_draws, *(draw for step in plan.steps for draw in step.draws)))
    while True:
        number += 1
        yield number


def _redraw(step: Step, numbers: Iterator[int]) -> Step:
    """Return a step of a repeat, with its own draws. x is not at its start any more, so that a hold applies to it."""
    return msgspec.structs.replace(step, draws=tuple(next(numbers) for _ in step.draws), unheld=False)


def _add_noise(step: Step, to: Time, at: Time, numbers: Iterator[int]) -> Step:
    """Return the step followed by adding noise to x, from the noise level at time `at` back to that at time `to`."""
    a = to.alpha / at.alpha
    added = to.sigma**2 - (a * at.sigma) ** 2
    if added < 0:
        raise UserError(
            f"time {to.network:g} is less noisy than {at.network:g}", "repeat steps that lead to less noise"
        )
    (row,) = step.update
    update = ((*(a * number for number in row), math.sqrt(added)),)
    return msgspec.structs.replace(step, update=update, draws=(*step.draws, next(numbers)))
