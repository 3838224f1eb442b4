"""Pipelines that add noise to an image by a schedule of their own."""

import numpy as np
import pytest

from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.configs.own_noise import OWN_NOISE
from fewstep.plans.configs.pipelines import PIPELINE
from tests.refusals import refuses

KANDINSKY = OWN_NOISE["KandinskyImg2ImgPipeline"]
CONFIG = {"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}


def test_the_noise_is_that_of_linear_betas_two_timesteps_before_the_strength() -> None:
    alpha, sigma = KANDINSKY.coefficients(0.3, 1000)
    betas = [1e-4 + (0.02 - 1e-4) * place / 999 for place in range(299)]
    assert alpha**2 == pytest.approx(np.exp(np.log1p(-np.array(betas)).sum()))
    assert alpha**2 + sigma**2 == pytest.approx(1)


def test_a_strength_without_a_timestep_is_refused() -> None:
    with refuses(("strength 0.001", "timestep -1"), "give a larger one"):
        KANDINSKY.coefficients(0.001, 1000)


def test_a_plan_from_an_image_has_this_noise_and_the_steps_of_its_scheduler() -> None:
    own, usual = (
        plan_from_scheduler_config({**CONFIG, **more}, steps=10, strength=0.3)
        for more in ({PIPELINE: "KandinskyImg2ImgPipeline"}, {})
    )
    assert own.start == (KANDINSKY.coefficients(0.3, 1000),) != usual.start
    assert own.steps == usual.steps and len(own.steps) == 3


def test_a_plan_from_noise_is_unchanged() -> None:
    own = plan_from_scheduler_config({**CONFIG, PIPELINE: "KandinskyImg2ImgPipeline"}, steps=4)
    assert own == plan_from_scheduler_config(CONFIG, steps=4)
