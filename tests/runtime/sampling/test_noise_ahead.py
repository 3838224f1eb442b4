"""Noise drawn in advance: bitwise `normal_batch`, whatever was drawn before, and fewer draws for consecutive seeds."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fewstep.plans import noise
from fewstep.runtime.sampling.noise_ahead import KEPT, LARGEST_BLOCK, MOST_SEEDS, SMALL, NoiseAhead

SHAPE = (32, 4)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of seeds of each draw."""
    counts: list[int] = []
    real = noise.normals_in_steps

    def counting(seeds: Sequence[int], draw: int, shape: tuple[int, ...]) -> noise.Work[np.ndarray]:
        counts.append(len(seeds))
        return real(seeds, draw, shape)

    monkeypatch.setattr(noise, "normals_in_steps", counting)
    return counts


@pytest.mark.parametrize(
    "calls",
    [
        [[number] for number in range(200)],
        [[2 * number, 2 * number + 1] for number in range(100)],
        [[5], [5], [4], [6], [5, 6], [5, 7], [7, 6], [6, 6], [2**64 - 2], [2**64 - 1], [0]],
    ],
)
@pytest.mark.parametrize("shape", [SHAPE, (3,), (), (SMALL // 2 + 1,)])
def test_the_noise_is_that_of_each_seed_in_any_order(calls: list[list[int]], shape: tuple[int, ...]) -> None:
    ahead = NoiseAhead()
    for seeds in calls[:60]:
        for number in (0, 3):
            np.testing.assert_array_equal(ahead.draw(seeds, number, shape), noise.normal_batch(seeds, number, shape))


def test_consecutive_seeds_are_drawn_in_blocks_that_grow(drawn: list[int]) -> None:
    ahead = NoiseAhead()
    for seed in range(1 + 2 + 4 + 8 + 3 * MOST_SEEDS):
        ahead.draw([seed], 0, (8, 4))
    assert drawn == [1, 2, 4, 8] + [MOST_SEEDS] * 4


def test_seeds_of_larger_samples_are_drawn_fewer_at_once(drawn: list[int]) -> None:
    ahead, at_once = NoiseAhead(), LARGEST_BLOCK // 784
    for seed in range(1 + 2 + 4 + 8 + 2 * at_once):
        ahead.draw([seed], 0, (1, 28, 28))
    assert drawn == [1, 2, 4, 8] + 3 * [at_once]


def test_blocks_hold_whole_calls(drawn: list[int]) -> None:
    ahead = NoiseAhead()
    for seed in range(0, 90, 3):
        ahead.draw([seed, seed + 1, seed + 2], 0, (8, 4))
    assert drawn[:3] == [3, 6, 12] and {*drawn[3:]} == {15}


def test_no_call_does_more_work_than_a_draw_and_a_half(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [0]
    real = noise.normals_in_steps

    def counting(seeds: Sequence[int], draw: int, shape: tuple[int, ...]) -> noise.Work[np.ndarray]:
        work = real(seeds, draw, shape)
        while True:
            steps[-1] += 1
            try:
                next(work)
            except StopIteration as end:
                return end.value
            yield

    monkeypatch.setattr(noise, "normals_in_steps", counting)
    ahead = NoiseAhead()
    for seed in range(500):
        steps.append(0)
        ahead.draw([seed], 0, (16, 2))
    one = noise.STEPS_OF_A_DRAW
    assert max(steps) <= 1.5 * one and max(steps[1 + 15 :]) == 1 and steps[1] == one


def test_the_same_seed_is_drawn_once_and_other_seeds_alone(drawn: list[int]) -> None:
    ahead = NoiseAhead()
    for seed in (7, 7, 7, 100, 50, 50):
        ahead.draw([seed], 0, SHAPE)
    assert drawn == [1, 1, 1]


def test_large_draws_are_not_kept(drawn: list[int]) -> None:
    ahead = NoiseAhead()
    for seed in (0, 1, 2, 2):
        ahead.draw([seed], 0, (SMALL + 1,))
    assert drawn == [1, 1, 1, 1] and not ahead._kept


def test_a_caller_that_changes_its_noise_changes_no_other() -> None:
    ahead = NoiseAhead()
    for _ in range(2):
        ahead.draw([3], 0, SHAPE)[:] = 0
    np.testing.assert_array_equal(ahead.draw([3], 0, SHAPE), noise.normal_batch([3], 0, SHAPE))


def test_a_plan_of_many_draws_keeps_a_few() -> None:
    ahead = NoiseAhead()
    for number in range(10 * KEPT):
        ahead.draw([0], number, SHAPE)
    assert len(ahead._kept) <= KEPT


def test_threads_share_it() -> None:
    ahead = NoiseAhead()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda seed: ahead.draw([seed % 40], 0, SHAPE), range(400)))
    for seed, array in enumerate(made):
        np.testing.assert_array_equal(array, noise.normal_batch([seed % 40], 0, SHAPE))
