"""The limit of all coefficients over the predictions of a rollout."""

import numpy as np
import pytest

from fewstep.fitting.blocks import sample
from fewstep.fitting.ending.span import span_psnr
from fewstep.plans.compile import compile_plan
from fewstep.rollouts.metrics import psnr
from tests.fitting.analytic import Analytic, blocks, facts, gaussian, mixture, taught


def test_two_predictions_span_the_exact_samples_of_gaussian_data():
    """The exact sample is the first x times a number, plus a constant, and so is each prediction."""
    sampler = Analytic(facts("cosine", "v"), gaussian())
    exact = taught(sampler, compile_plan("dpmpp_2m:200", sampler.facts), blocks(range(8)))
    assert span_psnr(sampler, compile_plan("ddim:2", sampler.facts), exact) > 80


@pytest.mark.parametrize("name", ["ddim:3", "dpmpp_2m:4"])
def test_no_plan_with_these_predictions_is_nearer(name):
    sampler = Analytic(facts("cosine", "v"), mixture)
    plan = compile_plan(name, sampler.facts)
    targets = taught(sampler, compile_plan("dpmpp_2m:60", sampler.facts), blocks(range(16)))
    own = np.concatenate([psnr(sample(sampler, plan, block), block.taught) for block in targets])
    assert span_psnr(sampler, plan, targets) > own.mean()
