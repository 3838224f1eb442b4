"""benchmarks/claims.py: it runs, and its verdict needs both comparisons; figures are not for a test to judge."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from fewstep.evaluation.distances.features import open_extractor
from fewstep.models import ready
from fewstep.runtime import load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

SCRIPT = Path(__file__).parents[2] / "benchmarks/claims.py"
PAGE = Path(__file__).parents[2] / "docs/compose.md"
QUICK = {"StreamDiffusion filter", "illustration sequences"}


@pytest.fixture(scope="module")
def script() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def names() -> list[str]:
    return [claim.system for claim in runpy.run_path(str(SCRIPT))["CLAIMS"]]


@pytest.mark.parametrize("system", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in names()])
def test_each_claim_is_measured(script: SimpleNamespace, system: str) -> None:
    sampler = load(ready.fashion_mnist(), "int8", backend=OnnxRuntime(threads=1))
    judge = open_extractor("fashion-mnist-cnn", sampler.bundle.manifest.x_shape, 1)
    setting = script.Setting(sampler, judge, "class", range(2))
    (claim,) = [each for each in script.CLAIMS if each.system == system]
    line = script.measure("fashion_mnist", setting, claim)
    assert line.system == system and line.ours_ms > 0 and line.plain_ms > 0
    assert line.ours == line.ours and system in str(line)
    if system == "StreamDiffusion filter":
        assert line.ours >= 9 * line.plain  # of 60 frames, one in eleven is processed


def test_a_system_pays_if_it_is_better_at_both(script: SimpleNamespace) -> None:
    line = ("model", "system", "claim", "figure", 8)
    assert script.Line(*line, ours=2.0, plain=1.0, ours_ms=1, plain_ms=1, at_equal_ms=1.5).pays
    assert not script.Line(*line, ours=2.0, plain=1.0, ours_ms=2, plain_ms=1, at_equal_ms=2.5).pays
    assert "does not pay" in str(script.Line(*line, ours=2.0, plain=3.0, ours_ms=1, plain_ms=1, at_equal_ms=1.5))


def test_every_system_without_a_figure_has_a_reason(script: SimpleNamespace) -> None:
    assert len(script.REASONS) >= 8 and all(len(reason) > 20 for reason in script.REASONS.values())
    page = PAGE.read_text()
    known = [part for system in [*names(), *script.REASONS] for part in system.replace(" RCFG", "").split(", ")]
    unnamed = [name for name in known if name.split()[0] not in page]
    assert unnamed == []
