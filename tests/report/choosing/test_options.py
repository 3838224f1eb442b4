"""Options of `choose` that no run can have, and what its options leave open: one line each."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.plans.errors import UserError
from fewstep.report.choosing.choose import open_judging
from fewstep.report.choosing.options import ChooseOptions


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"within": "20"}, "--within is '20'; write a time with its unit, as 20ms or 1.5s"),
        ({"within": "-1ms"}, "--within is '-1ms'"),
        ({"within": "1.2.3ms"}, "--within is '1.2.3ms'"),
        ({"at_least": "infdB"}, "--at-least is 'infdB'"),
        ({"at_least": "40"}, "--at-least is '40'; write it as 40dB"),
        ({"at_least": "good"}, "--at-least is 'good'; write it as 40dB"),
        ({"seeds": 1}, "--seeds is 1"),
        ({"output": "front.png"}, "name a file that ends in .svg"),
    ],
)
def test_options_that_cannot_be_are_one_line(tiny_bundle: Path, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        ChooseOptions(tiny_bundle, **asked)


def test_conditions_of_one_value_are_noted(tiny_bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "zeros.npz", **{"class": np.zeros(4, np.int64)})
    judging = open_judging(ChooseOptions(tiny_bundle, conditions=tmp_path / "zeros.npz"))
    assert judging.notes == ("judged at one value of class only: give others with --conditions FILE",)
