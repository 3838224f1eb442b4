from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Affine, Manifest
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.units import from_units, to_units
from tests.bundles import changed


def manifest_with(tiny_bundle: Path, units: Affine | None, x_shape: tuple[int, ...] = (8, 3)) -> Manifest:
    return msgspec.structs.replace(open_bundle(tiny_bundle).manifest, units=units, x_shape=x_shape)


def test_each_action_has_its_own_scale_and_shift(tiny_bundle: Path) -> None:
    manifest = manifest_with(tiny_bundle, Affine((2.0, 0.5, 10.0), (1.0, 0.0, -3.0)))
    found = to_units(manifest, np.full((8, 3), 0.5))
    assert found.dtype == np.float32 and found.shape == (8, 3)
    assert found[0].tolist() == [2.0, 0.25, 2.0] and (found == found[0]).all()


def test_from_units_undoes_to_units_to_rounding(tiny_bundle: Path) -> None:
    manifest = manifest_with(tiny_bundle, Affine((1e-3, 0.5, 170.0), (1e3, 0.0, -3.0)))
    x = np.random.default_rng(0).uniform(-1, 1, (4, 8, 3)).astype(np.float32)
    rounding = np.finfo(np.float32).eps * 1e3 / 1e-3  # of the first channel: a thousandth at a thousand
    np.testing.assert_allclose(from_units(manifest, to_units(manifest, x))[..., 1:], x[..., 1:], atol=1e-6)
    np.testing.assert_allclose(from_units(manifest, to_units(manifest, x))[..., 0], x[..., 0], atol=rounding)


def test_a_channel_that_never_changed_holds_what_the_network_was_trained_on(tiny_bundle: Path) -> None:
    manifest = manifest_with(tiny_bundle, Affine((1.0, 0.0, 1.0), (0.0, 0.7, 0.0), constant=-1.0))
    assert to_units(manifest, np.ones((8, 3)))[0].tolist() == pytest.approx([1.0, 0.7, 1.0])
    assert from_units(manifest, np.full((8, 3), 0.9))[0].tolist() == pytest.approx([0.9, -1.0, 0.9])


def test_the_axis_may_be_the_first(tiny_bundle: Path) -> None:
    manifest = manifest_with(tiny_bundle, Affine((2.0, 3.0), (0.0, 1.0), axis=0), (2, 8))
    assert to_units(manifest, np.ones((2, 8)))[:, 0].tolist() == [2.0, 4.0]


def test_what_does_not_fit_is_named(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match="does not say in which units"):
        to_units(manifest_with(tiny_bundle, None), np.ones((8, 3)))
    with pytest.raises(UserError, match="no array of numbers"):
        to_units(manifest_with(tiny_bundle, Affine((1.0,) * 3, (0.0,) * 3)), [[1.0, 2.0, 3.0], [1.0]])
    with pytest.raises(UserError, match=r"\[3, 8\]"):
        to_units(manifest_with(tiny_bundle, Affine((1.0,) * 3, (0.0,) * 3)), np.ones((3, 8)))
    of = manifest_with(tiny_bundle, None)
    assert "2 scales and 3 shifts for 3 places" in (Affine((1.0,) * 2, (0.0,) * 3).problem(of) or "")
    assert "no axis 2" in (Affine((1.0,) * 3, (0.0,) * 3, axis=2).problem(of) or "")
    assert "not finite" in (Affine((1.0, np.inf, 1.0), (0.0,) * 3).problem(of) or "")
    assert Affine((1.0,) * 3, (0.0,) * 3).problem(of) is None


def test_a_manifest_whose_units_do_not_fit_is_refused(tiny_bundle: Path) -> None:
    changed(tiny_bundle, units=Affine((1.0,), (0.0, 1.0)))
    with pytest.raises(UserError, match="field units: 1 scales and 2 shifts for 4 places"):
        open_bundle(tiny_bundle)
