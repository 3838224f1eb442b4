"""Circular padding is equal to torch's, on ONNX Runtime and on OpenVINO."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fewstep.export.tracing.capture import capture
from fewstep.graph.files.io import save
from fewstep.graph.session import run


class Padded(nn.Module):
    def __init__(self, *lengths: int) -> None:
        super().__init__()
        self.lengths = lengths

    def forward(self, x: Tensor) -> Tensor:
        return pad(x, self.lengths, mode="circular")


@pytest.mark.parametrize("lengths", [(1, 2), (3, 0, 0, 2), (8, 8, 6, 6), (2, -3, -1, 1), (-1, -2, -3, 0)], ids=str)
def test_it_is_equal_to_torch(lengths: tuple[int, ...]) -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 3, 6, 8), np.float32))
    x = x if len(lengths) > 2 else x[:, :, 0]
    graph, _ = capture(Padded(*lengths), (x[:3],), ({0: torch.export.Dim("batch")},), ["x"], ["y"])
    assert "Pad" not in graph.ops()
    np.testing.assert_array_equal(run(graph, {"x": x.numpy()})["y"], pad(x, lengths, mode="circular").numpy())


def test_openvino_computes_what_onnxruntime_does(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    torch.manual_seed(0)
    module = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular") for _ in range(2)))
    x = torch.randn(5, 4, 8, 8)
    batch = torch.export.Dim("batch")
    graph, _ = capture(module.requires_grad_(False), (x[:3],), ({0: batch},), ["x"], ["y"])
    save(graph, tmp_path / "graph.onnx")
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    found = openvino.Core().compile_model(tmp_path / "graph.onnx", "CPU", exact)(x.numpy())[0]
    wanted = run(graph, {"x": x.numpy()})["y"]
    np.testing.assert_allclose(wanted, module(x).numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
