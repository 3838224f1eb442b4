"""Operations that ONNX lacks are computed when the graph is written, if they depend on weights and numbers alone."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep.export.tracing.capture import capture
from fewstep.export.tracing.weights.computed_weights import compute_from_weights
from fewstep.graph.session import run

QR, MATMUL = torch.ops.aten.linalg_qr.default, torch.ops.aten.matmul.default
BATCH = ({0: torch.export.Dim("batch")},)


class Orthogonal(nn.Module):
    """Multiplies by the factors of two weights, and adds the singular values of one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        first, triangle = torch.linalg.qr(self.first + 1e-8)
        second, _ = torch.linalg.qr(self.second)
        return x @ first @ triangle @ second.T + torch.linalg.svdvals(self.first)


class ChangedInPlace(nn.Module):
    """Multiplies by factors of a weight, one of whose rows was changed through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        changed = self.weight.clone()
        changed[0].mul_(-3)
        first, triangle = torch.linalg.qr(changed)
        return x @ first @ triangle


@pytest.fixture(scope="module")
def module() -> nn.Module:
    return Orthogonal().requires_grad_(False)


def test_factors_of_weights_become_constants(module: nn.Module) -> None:
    program, x = torch.export.export(module, (torch.randn(2, 3, 4),), dynamic_shapes=BATCH), torch.randn(5, 3, 4)
    assert compute_from_weights(program, QR)
    assert QR not in [node.target for node in program.graph.nodes]
    torch.testing.assert_close(program.module()(x), module(x))


def test_products_with_an_input_stay(module: nn.Module) -> None:
    program = torch.export.export(module, (torch.randn(2, 3, 4),), dynamic_shapes=BATCH)
    assert not compute_from_weights(program, MATMUL)


def test_a_weight_that_is_changed_in_place_stays() -> None:
    module = ChangedInPlace()
    program, x = torch.export.export(module, (torch.randn(2, 3, 4),), dynamic_shapes=BATCH), torch.randn(5, 3, 4)
    assert not compute_from_weights(program, QR)
    torch.testing.assert_close(program.module()(x), module(x))


class Sawtooth(nn.Module):
    """Adds the rests of numbers that are no weights."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(4) * 0.5 % 0.7


@pytest.mark.slow
def test_numbers_alone_are_computed_too() -> None:
    x = torch.zeros(5, 3, 4)
    graph, _ = capture(Sawtooth(), (x[:2],), BATCH, ["x"], ["y"])
    found = run(graph, {"x": x.numpy()})["y"]
    assert found[0, 0].tolist() == pytest.approx([0.0, 0.5, 0.3, 0.1], abs=1e-6)


@pytest.mark.slow
def test_a_graph_has_the_factors_of_its_weights(module: nn.Module) -> None:
    x = torch.randn(5, 3, 4)
    graph, _ = capture(module, (x[:2],), BATCH, ["x"], ["y"])
    np.testing.assert_allclose(run(graph, {"x": x.numpy()})["y"], module(x).numpy(), atol=1e-5)
