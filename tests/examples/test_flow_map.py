"""A network with two times, sampled like MeanFlow's own recurrence."""

import re
from pathlib import Path

import pytest

from fewstep.plans.errors import UserError
from fewstep.runtime import load
from tests.examples.conftest import Example

pytestmark = pytest.mark.slow


def test_a_flow_map(tmp_path: Path, example: Example) -> None:
    (difference,) = re.findall(r"jumps, (\S+) from torch", example("flow_map.py", tmp_path / "bundle")[1])
    assert float(difference) < 1e-5
    with load(tmp_path / "bundle") as sampler:
        assert sampler.bundle.manifest.prologue is not None  # which both times go into
        assert [port.role for port in sampler.bundle.manifest.prologue.inputs] == ["time", "to", "condition"]
        with pytest.raises(UserError, match="takes two times, but gets one"):
            sampler.sample("dpmpp_2m:2", seeds=[0], condition={"class": [1]})
