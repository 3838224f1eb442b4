"""Noise of diffusers' schedulers and of plans with a different array for each draw, so that a draw that is read
twice is noticed.
"""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fewstep.plans.plan import Plan
from tests.plans.execute_plan import sample

SHAPE = (2, 1, 4, 4)


def of_draw(evaluation: int, place: int) -> NDArray[np.float64]:
    """Return the noise that is drawn after an evaluation, counted from 0, as the first one there, the second, and so
    on.
    """
    return np.random.default_rng((evaluation + 1, place)).standard_normal(SHAPE)


START = of_draw(-1, 0)


def network(u: NDArray[np.float64], time: float) -> NDArray[np.float64]:
    return np.asarray(np.tanh(u) + time / 3000)


def their_sample(scheduler: Any, x: Any, timesteps: Any, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.float64]:
    """Return the sample of diffusers' own loop from the tensor x, on `network`."""
    import torch

    module, now = sys.modules[type(scheduler).__module__], [0, 0]

    def randn_tensor(*_: Any, **__: Any) -> Any:
        evaluation, place = now
        now[1] += 1
        return torch.from_numpy(of_draw(evaluation, place))

    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", randn_tensor)
    for evaluation, t in enumerate(timesteps):
        now[:] = evaluation, 0
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(torch.from_numpy(network(seen.numpy(), float(t))), t, x).prev_sample
    return np.asarray(x.numpy())


def our_sample(plan: Plan, given: Mapping[str, NDArray[np.float64]] | None = None) -> NDArray[np.float64]:
    """Return the plan's sample on the same network and draws, each at its first use."""
    places: dict[int, tuple[int, int]] = {number: (-1, place) for place, number in enumerate(plan.start_draws)}
    for index, step in enumerate(plan.steps):
        for place, number in enumerate(step.draws):
            places.setdefault(number, (index, place))
    draws = {number: of_draw(*place) for number, place in places.items()}
    return sample(plan, lambda i, step, u: [network(u, step.time)], draws.__getitem__, np.float64, given)
