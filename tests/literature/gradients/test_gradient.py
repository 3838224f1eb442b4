from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.spec import Spec
from fewstep.export.trace import trace
from fewstep.graph.graph import Graph
from fewstep.graph.prepare import prepare
from fewstep.graph.selection import STEERS, explain_selection, select_int8_ops
from fewstep.graph.session import run
from fewstep.literature.attention.pag import pag
from fewstep.literature.gradients.gradient import Noisy, Normalise, Of, with_gradient
from fewstep.literature.gradients.products import keep_products_whole
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import PERTURBED, Steer
from fewstep.plans.spec import ScheduleSpec
from fewstep.plans.transforms import use_given_noise
from fewstep.runtime import load
from fewstep.runtime.bundle.manifest import Condition, Size
from tests.refusals import refuses

FLOW = ScheduleSpec("flow", timesteps=1)  # times from 0 to 1
MEASURED = Condition("measured", "measured", (2, 8, 8), "float32")


def spec(*conditions: Condition, **fields: object) -> Spec:
    return Spec("small", (2, 8, 8), conditions, "flow", FLOW, **fields)


def distance(x0: Tensor, noisy: Noisy, measured: Tensor) -> Tensor:
    return 0.5 * (measured - x0).square().flatten(1).sum(1)


class Convolutions(nn.Module):
    """Every type of layer whose backward pass is written here."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.down, self.grouped = nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.up, self.last = nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.Conv2d(16, 2, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = F.silu(self.norm(self.first(x)) * (1 + time[:, None, None, None]))
        low = self.grouped(F.gelu(self.down(h)))
        enlarged = F.interpolate(F.max_pool2d(h, 2), scale_factor=2) + F.avg_pool2d(h, 3, 1, 1)
        y: Tensor = self.last(self.up(low) + enlarged)
        return y


class Strided(nn.Module):
    """A strided convolution after a norm, and a transposed one: a few of those layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 16, 3, stride=2, padding=1), nn.GroupNorm(2, 16)
        self.inner, self.up = nn.Conv2d(16, 16, 3, padding=1), nn.ConvTranspose2d(16, 2, 4, 2, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h: Tensor = self.up(self.inner(F.silu(self.norm(self.first(x)) * (1 + time[:, None, None, None]))))
        return h


class Tokens(nn.Module):
    share = 0.0  # of the values themselves, in the place of attention
    mask: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.qkv = nn.Linear(8, 32), nn.LayerNorm(32), nn.Linear(32, 96)
        self.mlp, self.last = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)), nn.Linear(32, 8)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.first(x.flatten(1, 2)) + time[:, None, None]
        q, k, v = self.qkv(self.norm(h)).unflatten(2, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=self.mask)
        h = h + (read + self.share * (v - read)).transpose(1, 2).flatten(2)
        y: Tensor = self.last(h + self.mlp(h)).reshape(x.shape)
        return y


def trace_module(network: nn.Module) -> tuple[nn.Module, Graph]:
    module, its = with_gradient(network, spec(), distance, (MEASURED,), normalise="residual")
    return module, trace(module, its).graph


def check(
    module: Any, graph: Graph, of: Of = "x", normalise: Normalise | None = None, share: float | None = None
) -> None:
    """Assert that the graph computes the prediction, and autograd's gradient of the energy, at any batch."""
    for batch in (1, 3, 7):
        x, time, measured = torch.randn(batch, 2, 8, 8), torch.rand(batch) * 0.8 + 0.1, torch.randn(batch, 2, 8, 8)
        feeds = {"x": x.numpy(), "time": time.numpy(), "measured": measured.numpy()}
        perturbed = {} if share is None else {PERTURBED: np.full(batch, share, np.float32)}
        output = run(graph, feeds | perturbed)["output"]
        asked = x.clone().requires_grad_(True)
        velocity = module.denoiser(asked, time)
        x0 = asked - time[:, None, None, None] * velocity
        energy = distance(x0, Noisy(x, time, time, time), measured)
        (slope,) = torch.autograd.grad(energy.sum(), asked if of == "x" else x0)
        by = {None: torch.ones(batch), "residual": (2 * energy).sqrt(), "unit": slope.square().mean((1, 2, 3)).sqrt()}
        slope = slope / by[normalise].detach()[:, None, None, None]
        expected = torch.cat([velocity, -slope], dim=1).detach().numpy()
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("network", "lowered"), [(Strided, 1), pytest.param(Convolutions, 2, marks=pytest.mark.slow)])
def test_a_network_has_the_gradient_of_autograd_at_any_batch_and_its_forward_part_alone_is_lowered(
    network: type[nn.Module], lowered: int
) -> None:
    """Inner layers of 16 channels: a strided convolution, and a transposed one, which becomes four."""
    torch.manual_seed(0)
    module, graph = trace_module(network())
    check(module, graph, normalise="residual")
    prepared = prepare(graph).body
    assert [reason for _, reason in explain_selection(prepared)].count(STEERS) >= 2 * lowered
    plain = select_int8_ops(prepare(trace(network(), spec()).graph).body)
    assert len(select_int8_ops(prepared)) == len(plain) >= lowered


@pytest.mark.slow
def test_the_gradient_goes_through_rewritten_attention() -> None:
    """With a share of perturbed attention, compared with autograd through the mixed attention. At 0 attention is
    unchanged.
    """
    torch.manual_seed(0)
    module, its = with_gradient(Tokens(), spec(), distance, (MEASURED,), "x0", "unit")
    _, its = pag(module, its, "all")
    graph = trace(module, its).graph
    mixed = SimpleNamespace(denoiser=Tokens())
    mixed.denoiser.load_state_dict(module.denoiser.state_dict())
    for share in (0.0, 0.5, 1.0):
        mixed.denoiser.share = share
        check(mixed, graph, "x0", "unit", share)


@pytest.mark.parametrize("row", [[-np.inf] * 4, [0, -np.inf, -np.inf, -np.inf], [0, 0.5, -1, 0]], ids=str)
def test_attention_with_an_infinite_mask_and_its_derivative_are_torchs(row: list[float]) -> None:
    """A query without a key reads 0, and has no gradient."""
    torch.manual_seed(0)
    mask = torch.tensor([row, [0.0] * 4]).repeat(2, 1)
    given = [torch.randn(2, 2, 4, 8, requires_grad=True) for _ in range(3)]
    expected = F.scaled_dot_product_attention(*given, attn_mask=mask)
    with keep_products_whole():
        found = F.scaled_dot_product_attention(*given, attn_mask=mask)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    weights = torch.randn_like(expected)
    slopes = [torch.autograd.grad((each * weights).sum(), given) for each in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=0, atol=2e-6)


@pytest.mark.slow
def test_the_gradient_goes_through_masked_attention() -> None:
    """With a query that has no key."""
    torch.manual_seed(0)
    network = Tokens()
    network.mask = torch.zeros(16, 16).masked_fill(torch.ones(16, 16, dtype=torch.bool).triu(), -torch.inf)
    check(*trace_module(network), normalise="residual")


class Lines(nn.Module):
    """A layer without a derivative in ONNX."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        grid = torch.zeros(len(x), 8, 8, 2)
        return F.grid_sample(x, grid, align_corners=True)  # the line


class Zeta(nn.Module):
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return torch.special.zeta(x.abs() + 2, x.abs() + 2)


class Spectrum(nn.Module):
    """A layer whose derivative has an operation without a form in ONNX."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return x + torch.linalg.eigvalsh(x @ x.mT)[..., None]


@pytest.mark.parametrize(
    ("module", "operation"),
    [
        pytest.param(Lines(), "grid_sampler_2d", id="no-form"),
        pytest.param(Zeta(), "zeta", id="no-derivative"),
        pytest.param(Spectrum(), "_linalg_eigh", id="no-form-of-the-derivative", marks=pytest.mark.slow),
    ],
)
def test_an_operation_without_derivative_is_named_with_its_line(module: nn.Module, operation: str) -> None:
    made, its = with_gradient(module, spec(), distance, (MEASURED,))
    line = rf"operation aten::{operation} has no derivative that can be exported \(test_gradient.py:\d+\)"
    with pytest.raises(UserError, match=line):
        trace(made, its)


def test_what_cannot_be_asked_for_is_refused() -> None:
    for energy, name, asked in (
        (lambda x0: x0.sum((1, 2, 3)), "too many positional arguments; let it take .x0, noisy.$", {}),
        (distance, "missing a required argument: 'measured'; let it take .x0, noisy.$", {}),
        (distance, "of='x1' is not valid for the gradient of an energy; give 'x' or 'x0'", {"of": "x1"}),
        (
            distance,
            "normalise='norm' is not valid for the gradient of an energy; give None or 'residual' or 'unit'",
            {"normalise": "norm"},
        ),
    ):
        with pytest.raises(UserError, match=name):
            with_gradient(Tokens(), spec(), energy, **asked)
    with refuses("denoiser with free sizes (height)"):
        with_gradient(Tokens(), spec(sizes=(Size("height", 1, 8, 16, 4),)), distance, (MEASURED,))
    for energy, message in (
        (lambda x0, noisy: x0.sum(), r"the energy returned \[\] for a batch"),
        (lambda x0, noisy: noisy.time * 2, "the energy does not depend on x"),
    ):
        with pytest.raises(UserError, match=message):
            trace(*with_gradient(Tokens(), spec(), energy))


class Normal(nn.Module):
    """The flow of data N(0, 1)."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        t = time[:, None]
        return x * (2 * t - 1) / (t**2 + (1 - t) ** 2)


A = np.array([[1.0, 2.0, 0.0, -1.0], [0.0, 1.0, 1.0, 1.0]], np.float32)
NOISE = 0.1


def pseudo_inverse(x0: Tensor, noisy: Noisy, measured: Tensor) -> Tensor:
    """-log p(measured | x) for data of variance 1: PiGDM (Song et al. 2023)."""
    matrix = torch.from_numpy(A)
    variance = (noisy.sigma**2 / (noisy.alpha**2 + noisy.sigma**2))[:, :, None]
    covariance = variance * (matrix @ matrix.T) + NOISE**2 * torch.eye(2)
    (a, b), (_, d) = covariance[:, 0].unbind(1), covariance[:, 1].unbind(1)
    inverse = torch.stack([torch.stack([d, -b], 1), torch.stack([-b, a], 1)], 1) / (a * d - b * b)[:, None, None]
    residual = measured - x0 @ matrix.T
    return 0.5 * torch.einsum("bi,bij,bj->b", residual, inverse, residual)


@pytest.fixture(scope="module")
def posterior(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("gradient")
    (folder / "normal.py").write_text(
        "from tests.literature.gradients.test_gradient import *\n"
        "def make():\n"
        "    its = Spec('normal', (4,), (), 'flow', FLOW)\n"
        "    measured = Condition('measured', 'measured', (2,), 'float32')\n"
        "    return with_gradient(Normal(), its, pseudo_inverse, (measured,))\n"
        "def plain():\n"
        "    return Normal(), Spec('normal', (4,), (), 'flow', FLOW)\n"
    )
    export(ExportOptions(source=f"{folder / 'normal.py'}:make", output=folder / "bundle"))
    with load(folder / "bundle") as sampler:
        yield sampler


@pytest.mark.slow
def test_steered_samples_have_the_exact_posterior_mean(posterior) -> None:
    """With the exact denoiser the map from noise to sample is affine: noise 0 becomes the mean."""
    measured = np.array([[1.0, -2.0]], np.float32)
    plan = use_given_noise(posterior.compile("dpmpp_2m:50", Steer()))
    mean = posterior.sample(plan, [0], {"measured": measured}, given={"noise": np.zeros((1, 4), np.float32)})[0]
    exact = A.T @ np.linalg.solve(A @ A.T + NOISE**2 * np.eye(2), measured[0])
    assert np.linalg.norm(mean - exact) < 0.02 * np.linalg.norm(exact)
    plain = use_given_noise(posterior.compile("dpmpp_2m:50"))
    assert np.abs(posterior.sample(plain, [0], {"measured": measured}, given={"noise": np.zeros((1, 4))})).max() < 1e-6


@pytest.mark.slow
def test_a_plain_network_runs_the_steps_that_are_not_steered(posterior, tmp_path: Path) -> None:
    """As with weight 0, but without the cost of the gradient. The caller still gives the energy's condition."""
    file = posterior.bundle.path.parent / "normal.py"
    export(ExportOptions(source=f"{file}:make", output=tmp_path / "bundle", expert=(f"plain={file}:plain@0",)))
    measured, seeds = {"measured": np.array([[1.0, -2.0]] * 2, np.float32)}, [0, 1]
    with load(tmp_path / "bundle") as sampler:
        plan = sampler.compile("ddim:6", Steer())
        weights = tuple(float(step.network == "denoiser") for step in plan.steps)
        assert [step.heads for step in plan.steps] == [1 + int(weight) for weight in weights] and 0 < sum(weights) < 6
        made = sampler.sample(plan, seeds, measured)
    wanted = posterior.sample("ddim:6", seeds, measured, guidance=Steer(weights))
    np.testing.assert_allclose(made, wanted, atol=1e-5)
    assert np.abs(made - posterior.sample("ddim:6", seeds, measured)).max() > 0.1
