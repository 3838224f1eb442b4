"""Real-time chunking by gradient in the policy's benchmark: the authors' gain, and what the network is told."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch, which differentiates, is not installed")
import torch

from benchmarks.steering.continuation import CLIP, continues
from fewstep.control import SequenceRequest
from fewstep.export.gradient import Noisy

FOLDER = Path(__file__).parents[2] / "benchmarks/policy"


@pytest.mark.parametrize("tau", [0.0, 0.1, 0.5, 0.9])
def test_the_shift_of_x0_is_that_of_the_velocity(tau: float) -> None:
    """Black et al. 2025, equations 2 to 4: v + min(clip, (1 - tau) / (tau r^2)) e, and x0 = x + (1 - tau) v."""
    generator = torch.Generator().manual_seed(0)
    x0, former, x = (torch.randn(2, 6, 3, generator=generator) for _ in range(3))
    weights = torch.rand(2, 6, generator=generator)
    noisy = Noisy(x, torch.zeros(2), torch.full((2, 1, 1), tau), torch.full((2, 1, 1), 1 - tau))
    energy = continues(x0.requires_grad_(), noisy, former, weights)
    (slope,) = torch.autograd.grad(energy.sum(), x0)
    of_r = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
    gain = CLIP if tau == 0 else min(CLIP, (1 - tau) / (tau * of_r))
    torch.testing.assert_close(-slope, (1 - tau) * gain * weights[:, :, None] * (former - x0.detach()))


def test_a_request_tells_the_network_the_former_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import real_time_chunking

    first = real_time_chunking.guided(SequenceRequest({}, 0)).window
    assert not first["weights"].any() and first["former"].shape == (32, 4)
    former = np.arange(80, dtype=np.float32).reshape(20, 4)
    told = real_time_chunking.guided(SequenceRequest({"task": np.ones(5)}, 0, former, 4)).window
    assert told.keys() == {"task", "former", "weights"} and (told["former"][19:] == former[19]).all()
    assert (told["weights"][:4] == 1).all() and (told["weights"][20:] == 0).all()
    assert (np.diff(told["weights"][3:21]) < 0).all()
