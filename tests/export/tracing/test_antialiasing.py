"""Antialiased resizing is equal to torch's, and needs no Resize, which OpenVINO 2026.4 computes wrong."""

from functools import partial
from typing import Any

import pytest
import torch
from torch.nn.functional import interpolate

from tests.export.tracing.operations import assert_equal_to_torch

pytestmark = pytest.mark.slow

SETTINGS: tuple[dict[str, Any], ...] = (
    {"size": (5, 4)},
    {"size": (13, 3)},
    {"size": (5, 4), "align_corners": True},
    {"scale_factor": 0.5},
    {"scale_factor": (0.7, 0.45)},
)
X = torch.randn(4, 3, 8, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_it_is_equal_to_torch(mode: str) -> None:
    forms = {
        f"y{number}": partial(interpolate, mode=mode, antialias=True, **setting)
        for number, setting in enumerate(SETTINGS)
    }
    graph = assert_equal_to_torch(forms, X, 1e-6)
    assert "Resize" not in graph.ops()
