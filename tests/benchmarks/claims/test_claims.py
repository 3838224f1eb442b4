"""claims.py: it runs, and its verdict needs both comparisons; figures are not for a test to judge."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.bar import Bar
from benchmarks.claims.claim_lines import Gain, Line, Longer, gain, written
from fewstep.evaluation.distances.features import open_extractor
from fewstep.models import ready
from fewstep.runtime import load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

SCRIPT = Path(__file__).parents[3] / "benchmarks/claims/claims.py"
PAGE = Path(__file__).parents[3] / "docs/compose.md"
WITHOUT_LONGER = {"StreamDiffusion batch", "StreamDiffusion filter"}  # figures that more evaluations do not change
QUICK = {"illustration sequences"}


@pytest.fixture(scope="module")
def script() -> SimpleNamespace:
    namespace = runpy.run_path(str(SCRIPT))
    namespace["timed"].__globals__["ATTEMPTS"] = 1  # figures of time are not judged here
    return SimpleNamespace(**namespace)


def names() -> list[str]:
    return [claim.system for claim in runpy.run_path(str(SCRIPT))["CLAIMS"]]


@pytest.mark.parametrize("system", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in names()])
def test_each_claim_is_measured(script: SimpleNamespace, system: str) -> None:
    sampler = load(ready.fashion_mnist(), "int8", backend=OnnxRuntime(threads=1))
    judge = open_extractor("fashion-mnist-cnn", sampler.bundle.manifest.x_shape, 1)
    setting = script.Setting(sampler, judge, "class", range(2))
    (claim,) = [each for each in script.CLAIMS if each.system == system]
    line = script.judged("fashion_mnist", setting, claim, *script.timed(setting, claim, rounds=1))
    assert line.system == system and line.ours_ms > 0 and line.plain_ms > 0
    longer = line.at_equal_time
    assert longer is None if system in WITHOUT_LONGER else longer is not None and longer.ms > 0
    assert line.ours == line.ours and system in str(line)
    if system == "StreamDiffusion filter":
        assert line.ours >= 10 * line.plain  # of 22 frames, two are processed


def line(gain: Gain, at_equal: Gain | None, is_steady: bool = True) -> Line:
    longer = None if at_equal is None else Longer(9, 10, 1.5, at_equal)
    return Line("fashion_mnist", "SVDD", "more reward", "log p", 8, 2.0, 1.0, gain, "seed", 10, 9, longer, is_steady)


def test_a_plain_way_of_one_length_has_no_figure_at_equal_time() -> None:
    """Cells of evaluations that never ran stay empty."""
    sure, unsure = line(Gain(1.0, 0.4), None), line(Gain(1.0, 0.6), None)
    assert sure.pays and not unsure.pays and "equal time" not in str(sure) and "(10 and 9 ms)" in str(sure)
    page = written([sure], {}, 64, [])
    assert (
        "| SVDD | more reward | log p | 2.000, 10 ms | 1.000, 8 in 9 ms | +1.000 ± 0.400 |  |  | seed | pays |" in page
    )


def test_a_system_pays_if_both_gains_are_sure() -> None:
    sure, unsure, loss = Gain(1.0, 0.4), Gain(1.0, 0.6), Gain(-1.0, 0.0)
    assert line(sure, sure).pays and "pays" in str(line(sure, sure))
    for other in (unsure, loss, Gain(0.0, 0.0)):
        assert not line(sure, other).pays and not line(other, sure).pays
    assert "does not pay" in str(line(sure, loss)) and "unsteady" in line(sure, sure, False).verdict


def test_a_gain_is_paired_where_seeds_are_the_same() -> None:
    ours, plain = np.array([1.0, 5.0, 9.0]), np.array([0.0, 4.0, 8.0])
    assert gain(ours, plain) == Gain(1.0, 0.0)
    apart = gain(ours, plain[:2])
    assert apart.mean == 3.0 and apart.deviation == pytest.approx(np.hypot(4 / 3**0.5, 2.0))
    assert gain(ours[:1], plain[:1]) == Gain(1.0, 0.0)


def test_ways_take_turns_and_medians_are_told(script: SimpleNamespace) -> None:
    order: list[str] = []
    ways = [lambda s, name=name: order.append(name) or np.array([float(len(order))]) for name in "abc"]
    times, made = script.in_turns(None, 3, *ways)
    assert "".join(order) == "abcabcabc" and len(times) == 3 and min(times) >= 0
    assert [float(each[0]) for each in made[1]] == [2, 5, 8]


def test_the_page_has_every_line_and_every_reason(script: SimpleNamespace) -> None:
    lines = [line(Gain(1.0, 0.4), Gain(1.0, 0.4)), line(Gain(1.0, 0.4), Gain(-0.5, 0.1))]
    page = written(lines, script.REASONS, 64, [Bar("a frame", 0.12, 0.15, "ms")])
    assert "| SVDD | more reward | log p | 2.000, 10 ms | 1.000, 8 in 9 ms | +1.000 ± 0.400 |" in page
    assert (
        page.count("| pays |") == 1
        and page.count("| does not pay |") == 1
        and "| a frame | 0.12 ms | 0.15 ms |" in page
    )
    assert all(f"| {system} | {reason} |" in page for system, reason in script.REASONS.items())
    assert max(len(text) for text in page.split("\n") if not text.startswith("|")) <= 100


def test_every_system_without_a_figure_has_a_reason(script: SimpleNamespace) -> None:
    assert len(script.REASONS) >= 8 and all(len(reason) > 20 for reason in script.REASONS.values())
    page = PAGE.read_text()
    known = [part for system in [*names(), *script.REASONS] for part in system.replace(" RCFG", "").split(", ")]
    unnamed = [name for name in known if name.split()[0] not in page]
    assert unnamed == []
