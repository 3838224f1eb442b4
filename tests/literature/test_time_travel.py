"""Steps to more noise: the times of RePaint, the distribution of noising, and a posterior that a plain hold misses."""

import numpy as np
import pytest
from msgspec.structs import replace

from fewstep.literature.time_travel import time_travel
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode, encode
from fewstep.plans.noise import normal
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.sampling.execute import Hold, execute
from tests.plans.execute_plan import sample

FACTS = DenoiserFacts(ScheduleSpec("cosine"), "sample")


def times(plan) -> list[int]:
    """Return each step's place in the original plan, by its time."""
    order = sorted({step.time for step in plan.steps}, reverse=True)
    return [order.index(step.time) for step in plan.steps]


def test_blocks_are_repeated_and_the_last_step_is_not() -> None:
    plan = compile_plan("ddpm:6", FACTS)
    assert times(time_travel(plan, 1)) == [0, 1, 2, 3, 4, 5]
    assert times(time_travel(plan, 2)) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert times(time_travel(plan, 3, jump=2)) == [0, 1, 2, 1, 2, 1, 2, 3, 4, 3, 4, 3, 4, 5]
    assert times(time_travel(plan, 2, jump=2, between=(1, 3))) == [0, 1, 2, 1, 2, 3, 4, 5]
    assert time_travel(plan, 1).steps == plan.steps
    made = time_travel(plan, 3, jump=2)
    assert decode(encode(made)) == made


def test_every_draw_is_read_once() -> None:
    made = time_travel(compile_plan("ddpm:6", FACTS), 3, jump=2)
    numbers = [*made.start_draws, *(draw for step in made.steps for draw in step.draws)]
    assert len(numbers) == len(set(numbers)) == 1 + 5 + 8 + 4  # start; DDPM's own, its repeats, and four ways back


def test_a_hold_applies_to_repeats_of_a_first_step_that_is_unheld() -> None:
    plan = compile_plan("ddpm:3", FACTS)
    first, *others = plan.steps
    made = time_travel(replace(plan, steps=(replace(first, unheld=True), *others)), 2)
    assert [step.unheld for step in made.steps] == [True, False, False, False, False]


def test_x_is_noised_by_the_transition_of_the_schedule() -> None:
    network, draws, once = lambda i, step, u: [np.tanh(u)], lambda n: normal(5, n, (4,)), compile_plan("ddim:4", FACTS)
    twice, (_, down, up, _) = time_travel(once, 2, between=(1, 2)), once.steps
    states, plain = (list(execute(plan, network, draws, np.float64)) for plan in (twice, once))
    a = down.alpha / up.alpha
    spread = np.sqrt(down.sigma**2 - a**2 * up.sigma**2)
    noise = normal(5, 1, (4,)).astype(np.float64)  # numpy 1 multiplies float32 by a number in float32
    np.testing.assert_allclose(states[1].after[0], a * plain[1].after[0] + spread * noise, rtol=1e-12)
    far, (first, _, end, _) = list(execute(time_travel(once, 2, jump=2, between=(0, 2)), network, draws)), once.steps
    a = first.alpha / end.alpha
    spread = np.sqrt(first.sigma**2 - a**2 * end.sigma**2)
    np.testing.assert_allclose(far[1].after[0], a * plain[1].after[0] + spread * noise, rtol=1e-5)
    assert twice.steps[2:] == once.steps[1:]


@pytest.mark.parametrize(
    ("name", "arguments", "line"),
    [
        ("dpmpp_2m:6", (2,), "remembers earlier steps"),
        ("ddim:6", (0,), "repeats 0; give a whole number from 1 up"),
        ("ddim:6", (2, 6), "hold no block of 6 steps"),
        ("ddim:6", (2, 1, (3, 6)), "steps 3 to 6"),
        ("ddim_inverse:6", (2,), "less noisy"),
    ],
)
def test_refusals(name, arguments, line) -> None:
    with pytest.raises(UserError, match=line):
        time_travel(compile_plan(name, FACTS), *arguments)


def test_repeats_bring_a_hold_to_the_posterior() -> None:
    """Two numbers with deviation 1 and correlation 0.9, the first known to be 1.5. The second is then N(1.35, 0.19).
    A plain hold leaves it near its mean of 0.
    """
    covariance = np.array([[1.0, 0.9], [0.9, 1.0]])
    schedule = NoiseSchedule(FACTS.schedule)

    def network(index, step, u):
        time = schedule.time(step.time)
        gain = time.alpha * covariance @ np.linalg.inv(time.alpha**2 * covariance + time.sigma**2 * np.eye(2))
        return [u @ gain.T]

    count = 1000
    hold = Hold(np.full((count, 2), 1.5), np.array([[1.0, 0.0]]), fresh=True)
    means = []
    for repeats in (1, 20):
        plan = time_travel(compile_plan("ddpm:20", FACTS), repeats)
        made = sample(
            plan, network, lambda draw: normal(1, draw, (count, 2)).astype(np.float64), np.float64, None, hold
        )
        np.testing.assert_array_equal(made[:, 0], 1.5)
        means.append(made[:, 1].mean())
    assert abs(means[0] - 1.35) > 0.2
    assert abs(means[1] - 1.35) < 0.05
