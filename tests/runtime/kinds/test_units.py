"""Samples of a wrong shape are refused by both maps of units."""

from types import SimpleNamespace

import numpy as np
import pytest

from fewstep.runtime.kinds.units import Affine, from_units, to_units
from tests.refusals import refuses


@pytest.mark.parametrize("shape", [(), (2,), (3, 4), (4, 3)])
@pytest.mark.parametrize("units", [Affine((1.0, 2.0), (0.0, 0.0)), Affine((1.0,) * 8, (0.0,) * 8, None)])
def test_samples_of_another_shape_are_refused(units: Affine, shape: tuple[int, ...]) -> None:
    facts = SimpleNamespace(name="policy", x_shape=(4, 2), units=units)
    for convert in (to_units, from_units):
        with refuses("samples have the shape", "[..., 4, 2]"):
            convert(facts, np.ones(shape, np.float32))
