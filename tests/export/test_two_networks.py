"""Two networks in one module, weighed by the time that it is told (SINE: Zhang et al. 2022, arXiv 2212.04489)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep.export.export import ExportOptions, export
from fewstep.runtime import load

SOURCE = """
import torch
from tests.export.test_two_networks import Edited
from fewstep.export import Condition, ScheduleSpec, Spec


def make():
    torch.manual_seed(0)
    label = Condition("class", "label", null=3, low=0, high=2)
    share = Condition("share", "share", dtype="float32", typical=(0.0, 1.0))
    return Edited(), Spec("edited", (1, 4, 4), (label, share), "epsilon", ScheduleSpec("linear"))
"""
PICTURE, EARLIEST, LATEST = 0, 400.0, 1000.0  # the class of the one picture; where its network has a say


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.label, self.conv = nn.Embedding(4, 4), nn.Conv2d(1, 4, 3, padding=1)
        self.out = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        h: Tensor = self.out(
            torch.tanh(self.conv(x) + self.label(label)[:, :, None, None] + time[:, None, None, None] / 1000)
        )
        return h


class Edited(nn.Module):
    """The network of all pictures, and one that was tuned on a single picture: (1 - share) of one, share of the other,
    at times between EARLIEST and LATEST."""

    def __init__(self) -> None:
        super().__init__()
        self.all, self.one = Network(), Network()

    def forward(self, x: Tensor, time: Tensor, label: Tensor, share: Tensor) -> Tensor:
        has_a_say = (time >= EARLIEST) & (time <= LATEST)
        beta = torch.where(has_a_say, share, torch.zeros_like(share))[:, None, None, None]
        mixed: Tensor = (1 - beta) * self.all(x, time, label) + beta * self.one(
            x, time, torch.full_like(label, PICTURE)
        )
        return mixed


def test_guidance_by_two_networks_is_that_of_sine(tmp_path: Path) -> None:
    """e_u + w (beta e_one + (1 - beta) e_c - e_u), with beta in its times and 0 elsewhere, as the authors' code has."""
    (tmp_path / "edited.py").write_text(SOURCE)
    export(ExportOptions(f"{tmp_path / 'edited.py'}:make", tmp_path / "bundle"))
    torch.manual_seed(0)
    module, beta, weight = Edited(), 0.7, 3.0
    sampler, who = load(tmp_path / "bundle"), {"class": [1], "share": [beta]}
    plain = {"uncond": {"class": None, "share": [0.0]}}
    for state in sampler.steps("ddim:5@trailing", [0], who, weight, branches=plain):
        x, time = torch.from_numpy(state.u), torch.tensor([float(state.step.time)])
        with torch.no_grad():
            unconditional, asked = (module.all(x, time, torch.tensor([label])) for label in (3, 1))
            one = module.one(x, time, torch.tensor([PICTURE]))
        say = beta if EARLIEST <= state.step.time <= LATEST else 0.0
        noise = (unconditional + weight * (say * one + (1 - say) * asked - unconditional)).numpy()
        assert state.step.alpha is not None and state.step.sigma is not None
        expected = (state.u - state.step.sigma * noise) / state.step.alpha
        np.testing.assert_allclose(state.x0, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert state.step.time < EARLIEST  # the last steps are of the first network alone
    with pytest.raises(AssertionError):
        alone = sampler.sample("ddim:5@trailing", [0], {"class": [1], "share": [0.0]}, weight, branches=plain)
        both = sampler.sample("ddim:5@trailing", [0], who, weight, branches=plain)
        np.testing.assert_allclose(both, alone, rtol=1e-2)
