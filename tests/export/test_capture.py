import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep.export.capture import capture
from fewstep.graph.session import run


class Quotient(nn.Module):
    """A normalisation that may divide 0 by 0, as linear attention does."""

    def forward(self, x: Tensor) -> Tensor:
        positive = torch.relu(x)
        return positive / (positive.sum(-1, keepdim=True) + 1e-15)


class Squeezed(nn.Module):
    """An axis that torch leaves alone, since it is longer than 1, and one that it drops."""

    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(1)[:, :, :1].squeeze(2) * 2


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
