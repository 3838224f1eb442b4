"""A network that is told two times, sampled as MeanFlow's own recurrence samples it."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from fewstep.plans.errors import UserError
from fewstep.runtime import load

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "docs/examples" / "flow_map.py"


def test_a_flow_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["flow_map.py", str(tmp_path / "bundle")])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    (difference,) = re.findall(r"jumps, (\S+) from torch", capsys.readouterr().out)
    assert float(difference) < 1e-5
    with load(tmp_path / "bundle") as sampler:
        assert sampler.bundle.manifest.prologue is not None  # which both times go into
        assert [each.role for each in sampler.bundle.manifest.prologue.inputs] == ["time", "to", "condition"]
        with pytest.raises(UserError, match="takes two times, and gets one"):
            sampler.sample("dpmpp_2m:2", seeds=[0], condition={"class": [1]})
