"""The fix for a body whose samples are far from float32's."""

from types import SimpleNamespace
from typing import Any

import pytest

from fewstep.calibration.calibrated_body import check_near
from fewstep.plans.errors import UserError


@pytest.mark.parametrize(("unrelated", "fix"), [(7.0, "--quality 30dB"), (None, "--quality 30dB"), (-81.0, "--clip 1")])
def test_samples_that_leave_the_range_of_the_data_are_to_be_clipped(unrelated: float | None, fix: str) -> None:
    trial = SimpleNamespace(psnr=-62.7, snr=15.2, unrelated=unrelated, tokens=None, in_float=(), guidance=None)
    recipe = SimpleNamespace(target=SimpleNamespace(name="cpu-x86"))
    body: Any = SimpleNamespace(trial=trial, recipe=recipe, search=None)
    with pytest.raises(UserError, match=fix):
        check_near(body)
    body.search = SimpleNamespace()
    check_near(body)  # a bound is a floor of the caller's own
