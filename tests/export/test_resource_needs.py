"""The memory that an export announces: its weights once in float32, and the other networks."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fewstep.export.resource_needs import ALONE, estimate_needs
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.plans.spec import ScheduleSpec

WEIGHTS = 4 * (1000 * 1000 + 1000)
SPEC = Spec("wide", (1, 4, 4), (), "v", ScheduleSpec("cosine"))


def source(written: tuple[int, ...] = (), dtype: Any = torch.float32) -> TorchSource:
    other_networks: Any = SimpleNamespace(file_sizes=written)
    return TorchSource(torch.nn.Linear(1000, 1000).to(dtype), SPEC, "wide", "0" * 64, companions=other_networks)


def test_weights_of_any_type_become_float32() -> None:
    for dtype in (torch.float32, torch.float16):
        found = estimate_needs(source(dtype=dtype))
        assert found is not None and (found.memory, found.disk, found.files) == (WEIGHTS + ALONE, WEIGHTS, 3)


def test_other_networks_come_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    found = estimate_needs(source(written=(3 * WEIGHTS, 0, WEIGHTS)))
    assert found is not None
    assert (found.memory, found.disk, found.files) == (3 * WEIGHTS + ALONE, 5 * WEIGHTS, 6)
    monkeypatch.setattr("fewstep.graph.files.io.EXTERNAL_ABOVE", 2 * WEIGHTS)
    large = estimate_needs(source(written=(3 * WEIGHTS, 0, WEIGHTS)))
    assert large is not None and large.files == 7  # the weights of one are next to its graph


def test_a_bundle_in_float16_is_written_after_the_one_in_float32() -> None:
    found = estimate_needs(source(), "float16")
    assert found is not None and found.disk == WEIGHTS + WEIGHTS // 2


def test_of_a_file_only_its_graph_tells() -> None:
    other: Any = SimpleNamespace(path=Path("denoiser.onnx"))
    assert estimate_needs(other) is None
