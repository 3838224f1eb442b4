"""Parts of stored steps: the first noise of a pipeline, its deviation, and pipelines that the rules do not describe."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fewstep.pipelines.relations.drawn_noise import keep_draws, keep_first_draws
from fewstep.pipelines.relations.step_fit import _find_deviation
from fewstep.pipelines.stored_steps import _read_rules
from fewstep.plans.errors import UserError


def randn_tensor() -> torch.Tensor:
    return torch.ones(2)


class Pipe:
    """Scales its first noise in place."""

    def __call__(self) -> torch.Tensor:
        return randn_tensor().mul_(3)


def test_kept_noise_is_that_before_the_pipeline_scales_it() -> None:
    with keep_first_draws(Pipe()) as kept:
        Pipe()()
    np.testing.assert_array_equal(kept, [[1, 1]])


class Scheduler:
    def step(self) -> torch.Tensor:
        return randn_tensor().mul_(3)


def test_kept_noise_of_a_step_is_that_before_the_scheduler_scales_it() -> None:
    with keep_draws(Scheduler) as kept:
        Scheduler().step()
        randn_tensor()  # not in a step
    np.testing.assert_array_equal(kept, [[1, 1]])


def test_the_deviation_is_the_factor_of_the_noise_in_x() -> None:
    other, noise = np.random.default_rng(0).standard_normal((2, 64))
    assert _find_deviation(2.5 * noise, [other, noise]) == pytest.approx(2.5)


def test_x_that_is_no_multiple_of_the_noise_has_no_deviation() -> None:
    x, noise = np.random.default_rng(0).standard_normal((2, 64))
    assert _find_deviation(x, [noise]) is None


@pytest.mark.parametrize(
    ("seconds", "converts", "what"),
    [({"to"}, False, "gets the time at which a step ends"), (set(), True, "converts what its network predicts")],
)
def test_rules_do_not_describe_a_second_time_or_a_conversion(seconds: Any, converts: bool, what: str) -> None:
    built = SimpleNamespace(name="Pipe", converts=converts)
    recorded: Any = SimpleNamespace(rules_error=None, relations=SimpleNamespace(seconds=seconds), built=built)
    with pytest.raises(UserError, match=what):
        _read_rules(recorded)
