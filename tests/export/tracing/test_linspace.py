"""Coordinates by linspace leave a size free, and equal torch's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep.export.tracing.capture import capture
from fewstep.export.tracing.linspace import linspace
from fewstep.graph.session import run

pytestmark = pytest.mark.slow

SIZES = (4, 5, 8, 11, 27, 32)
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "linspace": lambda x: torch.linspace(-1, 1, x.shape[-1]),
    "of_a_size": lambda x: torch.linspace(0.5, x.shape[-1] - 0.5, steps=x.shape[-1], dtype=x.dtype, device=x.device),
    "of_tensors": lambda x: torch.linspace(x.new_tensor(0.25), x.new_tensor(3), x.shape[-1]),
    "of_another_size": lambda x: torch.linspace(-1, 1, 2 * x.shape[-1] - 1)[::2],
}


class Scaled(nn.Module):
    def __init__(self, form: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        return x * self.form(x)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_it_is_torchs_at_six_sizes(form: Callable[[Tensor], Tensor]) -> None:
    axes = ({0: torch.export.Dim("batch"), 2: torch.export.Dim("width", min=4, max=32)},)
    graph, _ = capture(Scaled(form), (torch.ones(3, 2, 9),), axes, ["x"], ["y"])
    for size in SIZES:
        x = torch.ones(1, 1, size)
        wanted = form(x).numpy()
        found = run(graph, {"x": np.ones((1, 2, size), np.float32)})["y"][0, 0]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * float(np.abs(wanted).max()))


@pytest.mark.parametrize("options", [{"steps": 9}, {"steps": 1}, {"steps": 5, "dtype": torch.int64}], ids=str)
def test_a_number_of_steps_is_left_to_torch(options: dict[str, Any]) -> None:
    assert torch.equal(linspace(-1, 3, **options), torch.linspace(-1, 3, **options))
