"""The worst sample: what its activations lose to the limits of their ranges, and how the page says so."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.evaluation.report.elements import join
from fewstep.evaluation.report.worst import clipped_share, worst_sample, worst_section
from fewstep.evaluation.results import Clipped, Quality, WorstSample
from fewstep.graph import io
from fewstep.lowering.encoding import Encoding
from fewstep.plans.plan import group_of
from fewstep.runtime.loading import load
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle
from tests.conftest import with_earlier

ONE = Encoding(np.array([1.0, 2.0]), np.uint8(0))  # 0 to 255, then 0 to 510


def test_the_share_is_that_of_the_energy_beyond_the_limits() -> None:
    values = np.array([[[3.0, 4.0], [259.0, 300.0]]])  # [1, 2, 2]
    energy = 9 + 16 + 259.0**2 + 300.0**2
    assert clipped_share(values, ONE, 0, 1) == pytest.approx((4.0**2 + 45.0**2) / energy)
    assert clipped_share(values, ONE, 1, 1) == 0 == clipped_share(0 * values, ONE, 0, 1)
    halved = replace(ONE, multipliers=np.array([1.0, 0.5]))  # the second channel reaches twice as far
    assert clipped_share(values, halved, 0, 1) == 0
    other = replace(ONE, multipliers=np.array([100.0, 0.5]))  # the first 2.55
    assert clipped_share(values, other, 0, 1) == pytest.approx((0.45**2 + 1.45**2) / energy)


def test_a_sample_beyond_what_calibration_saw_is_clipped(tmp_path: Path) -> None:
    """Ranges of a body whose activations are a quarter as large lose much more at all steps."""
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    made = calibrate(replace(FIRST, bundle=bundle, target=("cpu-x86",)))
    body, reference = made.manifest.bodies["int8-cpu-x86"], load(bundle)
    prepared = io.load(reference.bundle.graph(reference.body.graph), root=bundle)
    psnr = [40.0, 30.0, 50.0]
    seen = worst_sample(reference, prepared, body, made.plan, psnr, None)
    assert seen is not None and (seen.seed, seen.psnr, seen.median, seen.median_psnr) == (1, 30.0, 0, 40.0)
    loud = replace(prepared, constants=prepared.constants | {"w0": 4 * prepared.constants["w0"]})
    found = worst_sample(reference, loud, body, made.plan, psnr, None)
    assert found is not None
    assert {each.activation for each in found.clipped} <= {"input of h1", "output of h1"}
    assert len(found.clipped) == 5 and found.clipped[0].worst > 0.1
    assert sum(each.worst for each in found.clipped) > 3 * sum(each.worst for each in seen.clipped)
    assert [each.worst for each in found.clipped] == sorted((each.worst for each in found.clipped), reverse=True)
    assert worst_sample(reference, prepared, made.manifest.bodies["float32"], made.plan, psnr, None) is None
    mapped = with_earlier(body, body.graph, group=2)  # whose first two range groups are in float
    later = worst_sample(reference, loud, mapped, made.plan, psnr, None)
    early = {step for step in range(len(made.plan.steps)) if group_of(made.plan.steps[step].lam, body.groups) < 2}
    assert later is not None and early and {each.step for each in found.clipped} & early
    assert later.clipped and not {each.step for each in later.clipped} & early


def test_an_input_that_is_read_in_8_bits_loses_what_these_clip(tmp_path: Path) -> None:
    """16 bits, which all other tensors have, reach a quarter beyond what was seen. Neither has range groups."""
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    made = calibrate(replace(FIRST, bundle=bundle, target=("qnn", "qnn-8bit")))
    reference = load(bundle)
    prepared = io.load(reference.bundle.graph(reference.body.graph), root=bundle)
    loud = replace(prepared, constants=prepared.constants | {"w0": 4 * prepared.constants["w0"]})

    def lost(target: str, activation: str) -> float:
        body = made.manifest.bodies[f"int8-{target}"]
        worst = worst_sample(reference, loud, body, made.plan, [40.0, 30.0, 50.0], None)
        assert worst is not None
        return max((each.worst for each in worst.clipped if each.activation == activation), default=0.0)

    assert lost("qnn-8bit", "input of h1") > 1.2 * lost("qnn", "input of h1") > 0
    assert lost("qnn-8bit", "output of h1") == lost("qnn", "output of h1")


def test_the_page_says_what_is_clipped_or_that_nothing_is() -> None:
    def quality(body: str, worst: WorstSample | None) -> Quality:
        return Quality(body, "", "", None, None, (), 0, worst)  # type: ignore[arg-type]

    some = WorstSample(7, 20.0, 3, 40.0, (Clipped("input of a/Conv", 2, 0.25, 0.0),))
    shown = worst_section([quality("a", some), quality("b", WorstSample(1, 30.0, 2, 41.0, ())), quality("c", None)])
    assert shown is not None
    text = join([shown]).markup
    assert "input of a/Conv" in text and ">25.00 %<" in text and ">none<" in text and "seed 7 with" in text
    assert text.count(">0.01 %</data> of its energy to clipping") == 1 and "<b>c</b>" not in text
    assert worst_section([quality("c", None)]) is None
