"""RDDM, Resfusion and StoRM of the zoo: losses on networks with known answers, and the trained networks."""

from collections.abc import Sequence

import numpy as np
import pytest
import rddm
import resfusion
import storm
import torch
from denoising import Batch
from torch import Tensor, nn

from fewstep.plans.compile import compile_plan
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import DenoiserFacts
from tests.plans.execute_plan import sample

SHAPE, POINT = (1, 28, 28), 0.3


def point(shape: tuple[int, ...]):
    """Clean samples that equal POINT, from any draw."""

    def drawn(count: int, generator: torch.Generator) -> Batch:
        return Batch(torch.full((count, *shape), POINT), (torch.rand(count, *shape, generator=generator),))

    return drawn


def column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values)[:, None, None, None]


def test_rddm_learns_the_residual_and_the_noise_by_absolute_errors() -> None:
    schedule = NoiseSchedule(rddm.SPEC.schedule)

    def exact(x: Tensor, time: Tensor, y: Tensor) -> Tensor:
        points = [schedule.time(float(each)) for each in time]
        alpha, sigma = column([each.alpha for each in points]), column([each.sigma for each in points])
        return torch.cat([y - POINT, (x - alpha * POINT - (1 - alpha) * y) / sigma], 1)

    loss, seeded = rddm.loss(point(SHAPE), 16), torch.Generator().manual_seed
    assert loss(exact, seeded(0)) < 1e-3
    off = torch.tensor([1.0, 2.0])[None, :, None, None]
    assert loss(lambda *all: exact(*all) - off, seeded(0)) == pytest.approx(3.0, abs=1e-2)
    assert rddm.make.network()(*(torch.zeros(2, *each) for each in (SHAPE, (), SHAPE))).shape == (2, 2, 28, 28)


def test_resfusion_learns_what_a_step_of_ddpm_needs() -> None:
    """One function has a loss of 0, and leads DDPM from the degraded picture to the clean one."""

    def resnoise(x: Tensor, time: Tensor, y: Tensor) -> Tensor:
        beta, share = (
            torch.tensor(each)[time.long(), None, None, None] for each in (resfusion.BETAS, resfusion.SHARES)
        )
        noise = (x - share.sqrt() * POINT - (1 - share.sqrt()) * (y - POINT)) / (1 - share).sqrt()
        return noise + (1 - (1 - beta).sqrt()) * (1 - share).sqrt() / beta * (y - POINT)

    assert resfusion.loss(point(SHAPE), 16)(resnoise, torch.Generator().manual_seed(0)) < 1e-9
    stretched = np.linspace(1e-4, 0.02, 12) * 1000 / 12  # `linear_pro.py` of the authors' code
    assert len(resfusion.BETAS) == 5 and resfusion.BETAS[:4] == pytest.approx(stretched[:4])
    assert resfusion.SHARES[-1] == pytest.approx(0.25)
    y, rng = torch.linspace(-1, 1, 784).reshape(1, *SHAPE), np.random.default_rng(0)
    plan = compile_plan("ddpm:5", DenoiserFacts(resfusion.SPEC.schedule, "epsilon"), strength=1.0)

    def network(index, step, u):
        return [resnoise(torch.from_numpy(u), torch.tensor([step.time]), y).numpy()]

    made = sample(plan, network, lambda number: rng.standard_normal(y.shape), np.float64, {"image": y.numpy()})
    assert np.abs(made - POINT).max() < 1e-6


def test_storm_halves_the_loss_of_a_prediction_and_of_the_score_around_it() -> None:
    """The exact score leads from the prediction to the clean voice."""
    schedule = NoiseSchedule(storm.SPEC.schedule)
    both = nn.Module()
    both.predictor = lambda x, time, y: 0.5 * y

    def score(x: Tensor, time: Tensor, y: Tensor, predicted: Tensor) -> Tensor:
        assert torch.equal(predicted, 0.5 * y)
        points = [schedule.time(float(each)) for each in time]
        alpha, sigma = column([each.alpha for each in points]), column([each.sigma for each in points])
        return (alpha * POINT + (1 - alpha) * predicted - x) / sigma**2

    both.score = score
    drawn, seeded = point(storm.SHAPE), torch.Generator().manual_seed
    (y,) = drawn(16, seeded(0)).conditions
    half = float((0.5 * y - POINT).square().mean() / 2)
    assert storm.loss(drawn, 16)(both, seeded(0)) == pytest.approx(half, rel=1e-3)
    predicted, facts = 0.5 * y[:1], DenoiserFacts(storm.SPEC.schedule, "score", towards=storm.SPEC.towards)
    draws = np.random.default_rng(0).standard_normal((50, *predicted.shape))

    def network(index, step, u):
        return [score(torch.from_numpy(u), torch.tensor([step.time]), y[:1], predicted).numpy()]

    for name, most in (("ddim:5", 1e-6), ("sgmse(corrections=0):50@linspace", 1e-2)):
        plan, given = compile_plan(name, facts), {"predicted": predicted.numpy()}
        made = sample(plan, network, lambda number: draws[number], np.float64, given)
        assert np.abs(made - POINT).max() < most
    both.score = lambda x, *others: 0 * x
    still = float(storm.loss(drawn, 16)(both, seeded(0)) - half)
    assert still == pytest.approx(0.5, rel=0.02)  # of noise of deviation 1
    share = torch.tensor(0.5, requires_grad=True)
    both.predictor, both.score = lambda x, time, y: share * y, lambda x, time, y, predicted: 10 * predicted
    (slope,) = torch.autograd.grad(storm.loss(drawn, 16)(both, seeded(0)), share)
    assert slope > (y * (0.5 * y - POINT)).mean() + 0.1  # the score's loss teaches the predictor too


def test_storm_predicts_from_the_recording_alone_and_the_score_sees_both() -> None:
    network, at = storm.trained(), torch.ones(1)
    x, y, other = torch.randn(3, 1, *storm.SHAPE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network.predictor(x, at, y), network.predictor(other, 0 * at, y), rtol=0, atol=0)
    assert not torch.allclose(network.predictor(x, at, y), y, atol=1e-3)
    seen = network.score(x, at, y, y)
    assert min((network.score(x, at, *each) - seen).abs().max() for each in ((y, other), (other, y))) > 0.1
