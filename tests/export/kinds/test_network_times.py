"""Networks that take the log SNR, two times, or no time, each from its module to int8 and a baked file."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fewstep.runtime
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export import ScheduleSpec, Spec
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.plans import noise
from fewstep.plans.grids import trailing
from fewstep.plans.schedule import NoiseSchedule
from tests.graph.bake.run_baked import run_file

pytestmark = pytest.mark.slow

SEEDS, SHAPE = [3, 4], (1, 8, 8)
ANGLES = torch.linspace(0.01, 1.56, 1001, dtype=torch.float64)
TABLE = ScheduleSpec("table", alphas=ANGLES.cos().tolist(), sigmas=ANGLES.sin().tolist())
FLOW = ScheduleSpec("flow", timesteps=1)


class Network(nn.Module):
    """A network of x and any number of levels per sample."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.level = nn.Linear(levels, 32) if levels else None
        self.first, self.last = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 1, 3, padding=1)
        self.middle = nn.Conv2d(32, 32, 3, padding=1)

    def forward(self, x: Tensor, *levels: Tensor) -> Tensor:
        h = self.first(x)
        if self.level is not None:
            h = h + self.level(torch.stack(levels, dim=1))[:, :, None, None]
        output: Tensor = self.last(torch.relu(self.middle(torch.relu(h))))
        return output


class LogSnr(Network):
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angle = ANGLES[0] + time * (ANGLES[-1] - ANGLES[0])
        return super().forward(x, -2 * torch.log(torch.tan(angle.float())))


class Shortcut(Network):
    def forward(self, x: Tensor, time: Tensor, to: Tensor) -> Tensor:
        return super().forward(x, time, time - to)


class Blind(Network):
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return super().forward(x)


def make_log_snr() -> tuple[nn.Module, Spec]:
    return LogSnr(1), Spec("log-snr", SHAPE, (), "v", TABLE)


def make_shortcut() -> tuple[nn.Module, Spec]:
    return Shortcut(2), Spec("shortcut", SHAPE, (), "flow", FLOW, to="to")


def make_blind() -> tuple[nn.Module, Spec]:
    return Blind(0), Spec("blind", SHAPE, (), "flow", FLOW)


def descend(trace, times, *, rate: float = 0.1, momentum: float = 0.35):
    x = trace.start()
    ahead = x
    for s in times[:-1]:
        _, (gradient,) = trace.outputs(ahead, s)
        x = trace.store(x - rate * gradient)
        ahead = x - rate * momentum * gradient
    return x


def loop_log_snr(x: Tensor) -> Tensor:
    """DDIM by alpha and sigma; the network receives log(alpha^2 / sigma^2) of the schedule itself."""
    network, schedule = Network(1), NoiseSchedule(TABLE)
    times = trailing(schedule, 3)
    x = x * times[0].sigma
    for s, t in pairwise(times):
        v = network(x, torch.full((len(x),), 2 * s.lam))
        x0, eps = s.alpha * x - s.sigma * v, s.sigma * x + s.alpha * v
        x = t.alpha * x0 + t.sigma * eps
    return x


def loop_shortcut(x: Tensor) -> Tensor:
    """Jumps of a half: the network receives the time and the length."""
    for t in (1.0, 0.5):
        x = x - 0.5 * Network(2)(x, torch.full((len(x),), t), torch.full((len(x),), 0.5))
    return x


def loop_blind(x: Tensor) -> Tensor:
    """Euler's method over even times."""
    for _ in range(4):
        x = x - 0.25 * Network(0)(x)
    return x


def loop_descent(x: Tensor) -> Tensor:
    """Nesterov's gradient descent, as in the sampler of Equilibrium Matching: the gradient is taken at the extrapolated
    point.
    """
    gradient = torch.zeros_like(x)
    for _ in range(5):
        gradient = Network(0)(x - 0.05 * 0.35 * gradient)
        x = x - 0.05 * gradient
    return x


KINDS: dict[str, tuple[Callable[..., tuple[nn.Module, Spec]], str, Callable[[Tensor], Tensor]]] = {
    "log_snr": (make_log_snr, "ddim:3@trailing", loop_log_snr),
    "two_times": (make_shortcut, "ctm:2@trailing", loop_shortcut),
    "blind": (make_blind, "ddim:4@trailing", loop_blind),
    "equilibrium": (make_blind, f"{__file__}:descend(rate=0.05):5@trailing", loop_descent),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    make, plan, loop = KINDS[request.param]
    bundle = tmp_path_factory.mktemp(request.param) / "bundle"
    export(ExportOptions(source=f"{__file__}:{make.__name__}", output=bundle))
    return bundle, plan, loop


@torch.no_grad()
def test_samples(kind):
    bundle, plan, loop = kind
    with fewstep.runtime.load(bundle) as sampler:
        found = sampler.sample(plan, SEEDS)
    np.testing.assert_allclose(found, loop(torch.from_numpy(noise.normal_batch(SEEDS, 0, SHAPE))), atol=2e-5)


def test_baked_file(kind, tmp_path):
    bundle, plan, _ = kind
    bake(BakeOptions(bundle=bundle, plan=plan, output=tmp_path / "run.onnx"))
    with fewstep.runtime.load(bundle) as sampler:
        np.testing.assert_array_equal(run_file(tmp_path / "run.onnx", SEEDS), sampler.sample(plan, SEEDS))


def test_int8(kind):
    bundle, plan, _ = kind
    calibrate(CalibrateOptions(bundle=bundle, plan=plan, trajectories=4))
    with fewstep.runtime.load(bundle) as exact, fewstep.runtime.load(bundle, "int8") as int8:
        expected, found = (sampler.sample(plan, SEEDS) for sampler in (exact, int8))
    difference = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
    assert 0 < difference < 0.1
