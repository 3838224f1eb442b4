"""Noise of diffusers' schedulers and of plans, of which each draw is another array: a draw read twice is noticed."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fewstep.plans.plan import Plan

SHAPE = (2, 1, 4, 4)


def of_draw(evaluation: int, place: int) -> NDArray[np.float64]:
    """The noise that is drawn after an evaluation, counted from 0, as the first one there, the second one, ..."""
    return np.random.default_rng((evaluation + 1, place)).standard_normal(SHAPE)


START = of_draw(-1, 0)


def count_their_draws(scheduler: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Replace the noise of a scheduler. The function that comes back is told the evaluation before each step."""
    import torch

    module, now = sys.modules[type(scheduler).__module__], [0, 0]

    def randn_tensor(*_: Any, **__: Any) -> Any:
        evaluation, place = now
        now[1] += 1
        return torch.from_numpy(of_draw(evaluation, place))

    def begin(evaluation: int) -> None:
        now[:] = evaluation, 0

    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", randn_tensor)
    return begin


def our_draws(plan: Plan) -> Callable[[int], NDArray[np.float64]]:
    """The same noise by the numbers of a plan's draws, each where it is drawn first."""
    places: dict[int, tuple[int, int]] = {number: (-1, place) for place, number in enumerate(plan.start_draws)}
    for index, step in enumerate(plan.steps):
        for place, number in enumerate(step.draws):
            places.setdefault(number, (index, place))
    return lambda number: of_draw(*places[number])
