import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep.export.tracing.capture import capture
from fewstep.graph.session import run
from tests.export.tracing.operations import assert_equal_to_torch


class Quotient(nn.Module):
    """A normalisation that may divide 0 by 0, as in linear attention."""

    def forward(self, x: Tensor) -> Tensor:
        positive = torch.relu(x)
        return positive / (positive.sum(-1, keepdim=True) + 1e-15)


class Squeezed(nn.Module):
    """An axis longer than 1, which torch does not squeeze, and one that it squeezes."""

    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(1)[:, :, :1].squeeze(2) * 2


class SqueezedBatch(nn.Module):
    """The time of each sample, squeezed in case it has an additional axis: a batch of one keeps its axis."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x[:, :1, :1].squeeze()[:, None, None]


@pytest.mark.slow
def test_a_batch_of_one_is_not_squeezed() -> None:
    x = torch.randn(3, 3, 5)
    graph, _ = capture(SqueezedBatch(), (x,), ({0: torch.export.Dim("batch")},), ["x"], ["y"])
    for batch in (1, 3):
        found = run(graph, {"x": x[:batch].numpy()})["y"]
        np.testing.assert_allclose(found, (x * x[:, :1, :1])[:batch].numpy(), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("module", [Quotient(), Squeezed()], ids=lambda module: type(module).__name__)
def test_what_onnx_has_otherwise_computes_what_torch_does(module: nn.Module) -> None:
    x = torch.randn(4, 3, 5)
    x[0] = -1.0
    shapes = ({0: torch.export.Dim("batch")},)
    graph, _ = capture(module, (x[:3],), shapes, ["x"], ["y"])
    found = run(graph, {"x": x.numpy()})["y"]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, module(x).numpy(), atol=1e-6)


def test_a_range_of_fractions_has_as_many_elements_as_in_torch() -> None:
    """0.6 / 0.1 is above 6 in float32, and 6 in float64."""
    ranges = {
        "seven of float32": lambda x: x + torch.arange(0, 0.6, 0.1),
        "downwards": lambda x: x + torch.arange(1.0, -0.2, -0.2),
        "of one number": lambda x: x + torch.arange(5.5),
    }
    assert_equal_to_torch(ranges, torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), 1e-6)


def frequencies() -> Tensor:
    return torch.exp(torch.arange(64).float() * -0.14619587)


class TimeEmbedding(nn.Module):
    """Angles of a time, by frequencies that are constants."""

    def forward(self, x: Tensor) -> Tensor:
        return x * frequencies()


def test_constants_are_those_of_torch_to_the_bit() -> None:
    axes = ({0: torch.export.Dim("batch")},)
    graph, _ = capture(TimeEmbedding(), (torch.ones(3, 64),), axes, ["x"], ["y"])
    np.testing.assert_array_equal(run(graph, {"x": np.ones((1, 64), np.float32)})["y"][0], frequencies().numpy())
    exponents = (torch.arange(64).float() * -0.14619587).numpy()
    assert (np.exp(exponents) != frequencies().numpy()).any()  # numpy, with which the exporter folds, rounds otherwise


class Keywords(nn.Module):
    """Submodules with the names of Python keywords, as keys of a ModuleDict often are."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({"class": nn.Linear(3, 3), "in": nn.Linear(3, 3)})

    def forward(self, x: Tensor) -> Tensor:
        for each in self.maps.values():
            x = each(x)
        return x


def test_a_submodule_may_have_the_name_of_a_keyword() -> None:
    module, x = Keywords(), torch.randn(2, 3)
    graph, program = capture(module, (x,), ({0: torch.export.Dim("batch")},), ["x"], ["y"])
    assert np.allclose(run(graph, {"x": x.numpy()})["y"], module(x).detach().numpy(), atol=1e-6)
    assert {node.name for node in graph.nodes} == {"maps.class/Gemm", "maps.in/Gemm"}


class Unchanged(nn.Module):
    """Returns an input, and one tensor twice."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        doubled = x * 2
        return x, doubled, doubled


def test_a_module_may_return_an_input_or_a_tensor_twice() -> None:
    x = np.ones((2, 3), np.float32)
    example = (torch.zeros(3, 3),)
    graph, _ = capture(Unchanged(), example, ({0: torch.export.Dim("batch")},), ["x"], ["same", "a", "b"])
    outputs = run(graph, {"x": x})
    assert np.array_equal(outputs["same"], x)
    assert np.array_equal(outputs["a"], 2 * x) and np.array_equal(outputs["b"], 2 * x)
