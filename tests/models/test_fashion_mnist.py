import numpy as np
import pytest
import torch

from fewstep.models.fashion_mnist import unet
from fewstep.models.fashion_mnist.train import batch, cosine_alphas_cumprod
from fewstep.models.training import generator_of
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import ScheduleSpec


def test_network_has_the_size_its_card_says():
    network = unet.load()
    assert 2e6 < sum(parameter.numel() for parameter in network.parameters()) < 4e6
    assert network(torch.zeros(2, 1, 28, 28), torch.tensor([0.0, 999.0]), torch.tensor([0, 10])).shape == (2, 1, 28, 28)


def test_network_was_trained():
    """At high noise a v predictor must at least return minus the mean image, and at low noise minus the blurred
    image.

    An untrained network has the loss 1 + E[x0^2]; an unconditional Gaussian fit reaches about 0.4 on such images.
    The data are smooth shapes on black here, so the test only checks the order of magnitude.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.linspace(-1, 1, 28)
    image = torch.where((rows[:, None].abs() < 0.6) & (rows[None, :].abs() < 0.4), 0.5, -1.0)[None, None]
    losses = []
    for t in (200, 500):
        alpha, sigma = cosine_alphas_cumprod()[t].sqrt().float(), (1 - cosine_alphas_cumprod()[t]).sqrt().float()
        noise = torch.randn(8, 1, 28, 28, generator=generator)
        v = unet.load()(alpha * image + sigma * noise, torch.full((8,), t), torch.full((8,), 3))
        losses.append((v - (alpha * noise - sigma * image)).square().mean().item())
    assert max(losses) < 0.4


def test_training_schedule_is_the_runtimes():
    schedule = NoiseSchedule(ScheduleSpec("cosine"))
    alphas = np.array([schedule.alpha(t) for t in range(1000)])
    assert cosine_alphas_cumprod().sqrt().numpy() == pytest.approx(alphas, rel=1e-9)


def test_a_resumed_run_sees_the_same_batches():
    images, labels = torch.rand(100, 1, 28, 28), torch.randint(10, (100,))
    first, again, other = (batch(images, labels, 64, generator_of(seed, 7)) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[3], other[3])
    assert (first[1] == unet.NULL_CLASS).any()
