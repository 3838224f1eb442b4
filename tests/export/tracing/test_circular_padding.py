"""Circular padding is equal to torch's, on ONNX Runtime and on OpenVINO."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from fewstep.export.tracing.capture import capture
from fewstep.graph.files.io import save
from fewstep.graph.session import run
from tests.export.tracing.operations import assert_equal_to_torch

pytestmark = pytest.mark.slow

LENGTHS = [(1, 2), (3, 0, 0, 2), (8, 8, 6, 6), (2, -3, -1, 1), (-1, -2, -3, 0)]


def pad_circularly(x: Tensor, lengths: tuple[int, ...]) -> Tensor:
    return pad(x if len(lengths) > 2 else x[:, :, 0], lengths, mode="circular")


def test_it_is_equal_to_torch() -> None:
    x = torch.randn(5, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    functions = {
        f"lengths_{number}": partial(pad_circularly, lengths=lengths) for number, lengths in enumerate(LENGTHS)
    }
    assert "Pad" not in assert_equal_to_torch(functions, x, 0.0).ops()


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
