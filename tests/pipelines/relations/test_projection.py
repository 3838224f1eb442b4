"""Projected guidance is found in the outputs of two branches, made by the guider of diffusers."""

import numpy as np
import pytest
import torch

from fewstep.pipelines.relations.projection import SMALL, GuidedStep, find_projection
from fewstep.plans.shaping import Project

pytest.importorskip("diffusers")
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance


def make_steps(deviation: float, weight: float, form: Project, count: int = 4) -> list[GuidedStep]:
    """Return steps that diffusers guides, plainly before `form.start`."""
    random, momentum, steps = torch.Generator().manual_seed(0), MomentumBuffer(form.momentum), []
    for index in range(count):
        cond, uncond = (deviation * torch.randn(1, 4, 6, 5, generator=random) for _ in range(2))
        if index < form.start:
            momentum.update(cond - uncond)
            target = uncond + weight * (cond - uncond)
        else:
            target = normalized_guidance(
                cond,
                uncond,
                weight if form.from_uncond else weight - 1,
                momentum,
                form.eta,
                form.limit or 0.0,
                not form.from_uncond,
                form.axis,
            )
        steps.append(GuidedStep(*(output.double().numpy() for output in (cond, uncond, target))))
    return steps


@pytest.mark.parametrize(
    "form",
    [
        Project(0.0, 2.5, -0.75, axis=-2),
        Project(1.0, 12.0, from_uncond=True),
        Project(0.4, None, 0.5),
        Project(0.0, 10.0, -0.5, from_uncond=True, start=2),
    ],
    ids=str,
)
def test_the_numbers_of_a_guider_are_found(form: Project) -> None:
    found = find_projection(make_steps(1.0, 7.0, form), make_steps(SMALL, 7.0, form))
    assert found is not None and found[0] == form
    np.testing.assert_allclose(found[1], 7.0, atol=1e-4)


def test_other_combinations_are_none() -> None:
    random = np.random.default_rng(0)
    steps = [GuidedStep(*random.normal(size=(3, 1, 4, 6))) for _ in range(3)]
    assert find_projection(steps, steps) is None
