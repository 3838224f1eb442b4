"""Free sizes stay free where code asks for `len` of a tensor, or for `int` of a size."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep.export.tracing.capture import capture
from fewstep.export.tracing.row_counts import _Int, _only_calls_int
from fewstep.graph.session import run


class Positions(nn.Module):
    """Adds positions after the first three, as many as there are tokens."""

    def forward(self, *tokens: Tensor) -> Tensor:
        (own,) = tokens
        count, rows = int(own.shape[1]), len(own)
        return own + torch.arange(64.0)[3 : 3 + count] * rows


@pytest.mark.slow
def test_a_length_that_code_makes_an_integer_is_free() -> None:
    free = ({0: torch.export.Dim("batch", max=8), 1: torch.export.Dim("tokens", max=32)},)
    graph, _ = capture(Positions().eval(), (torch.zeros(3, 5),), (free,), ["x"], ["y"])
    x = np.ones((2, 9), np.float32)
    np.testing.assert_array_equal(
        run(graph, {"x": x})["y"], 1 + 2 * np.arange(3, 12, dtype=np.float32)[None].repeat(2, 0)
    )


def test_other_values_are_integers_as_before() -> None:
    assert [_Int("7"), _Int(3.7), _Int("ff", 16)] == [7, 3, 255]
    assert isinstance(3, _Int) and not isinstance(3.0, _Int) and issubclass(bool, _Int)
    assert _Int == (3).__class__  # `int` itself here would keep this module from being traced with _Int


@pytest.mark.parametrize(
    ("code", "is_only_called"),
    [
        ("int(x)", True),
        ("int(x) if isinstance(x, (float, int)) else 0", True),
        ("int(x.astype(int))", False),
        ("int(x) if type(x) is int else 0", False),
        ("int(x) + int.from_bytes(x)", False),
        ("(int if x else float)(x) + int(x)", False),
        ("isinstance(x, int)", False),
        ("x", False),
    ],
)
def test_code_that_passes_int_on_keeps_its_own(tmp_path: Path, code: str, is_only_called: bool) -> None:
    name = f"code_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(f"def run(x: list[int]) -> int:\n    return {code}\n")
    spec = importlib.util.spec_from_file_location(name, tmp_path / f"{name}.py")
    assert spec is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    assert _only_calls_int(name) == is_only_called
