"""A policy's facts: the rhythm of its sequences, and the units of its observations and actions."""

from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.plans.errors import UserError
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Affine, Condition, Description, Manifest, Policy
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.kinds.units import from_units, to_units

SEQUENCE = (8, 3)
described = partial(Description, "policy", SEQUENCE, prediction="epsilon", schedule=ScheduleSpec("cosine"))
DECIDED = (Condition("prefix", "prefix", SEQUENCE, "float32"), Condition("delay", "delay", (1,), "float32"))


ACROSS = Affine((1.0,) * 8, (0.0,) * 8, axis=-2)
continuing = partial(Policy, observations=1, first=0, actions=4, prefix="prefix", delay="delay", most_delay=4)


@pytest.mark.parametrize(
    ("policy", "of", "said"),
    [
        (Policy(2, 1, 7), described(()), None),
        (Policy(2, 1, 8), described(()), "actions 1 .. 8 of samples [8, 3]"),
        (Policy(2, 1, 0), described(()), "actions=0 is less than 1"),
        (Policy(0, 1, 2), described(()), "observations=0 is less than 1"),
        (Policy(2, -1, 2), described(()), "first=-1 is less than 0"),
        (Policy(2, 1, 7), described((), units=ACROSS), "axis -2 of samples [8, 3]"),
        (continuing(), described(DECIDED), None),
        (Policy(1, 0, 4, control="speed"), described(()), "control='speed' is not one of position, velocity"),  # type: ignore[arg-type]
        (continuing(most_delay=5), described(DECIDED), "its most_delay is 5, not from 1 to 4 (its horizon less"),
        (continuing(first=1, most_delay=3), described(DECIDED), "its first is 1, but with a prefix it must be 0"),
        (continuing(delay=None), described(DECIDED), "it has one of prefix and delay without the other"),
        (continuing(prefix=None, delay=None), described(DECIDED), "without prefix and delay"),
        (continuing(), described(DECIDED[1:]), "a condition 'prefix' of the shape [8, 3]"),
        (continuing(), described(DECIDED[:1]), "a condition 'delay' of the shape [1]"),
        (Policy(1, 0, 4, discrete={2: (-1.0, 0.5, 1.0)}), described(()), None),
        (
            Policy(1, 0, 4, discrete={3: (0.0, 1.0)}),
            described(()),
            "discrete contains the index 3, but actions have 3 elements",
        ),
        *(
            (Policy(1, 0, 4, discrete={2: levels}), described(()), "two or more in increasing order")
            for levels in ((1.0,), (1.0, 0.0), (0.0, 0.0), (0.0, float("nan")))
        ),
    ],
)
def test_what_does_not_fit_a_policy_is_named(policy: Policy, of: Description, said: str | None) -> None:
    found = policy.problem(of)
    assert found is None if said is None else said in (found or "")


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


def test_what_has_no_such_units_is_named(tiny_bundle: Path) -> None:
    units = Affine((1.0,) * 3, (0.0,) * 3)
    for own, value, said in (
        (None, np.ones((8, 3)), "does not say in which units"),
        (units, [[1.0, 2.0, 3.0], [1.0]], "not an array of numbers"),
        (units, np.ones((3, 8)), r"\[3, 8\]"),
    ):
        with pytest.raises(UserError, match=said):
            to_units(manifest_with(tiny_bundle, own), value)
    of = manifest_with(tiny_bundle, None)
    assert units.problem(of) is None
    each = Affine((1.0,) * 23, (0.0,) * 23, axis=None).problem(of) or ""
    assert f"23 scales and 23 shifts for samples {list(of.x_shape)}" in each
    assert "2 scales and 3 shifts for an axis of size 3" in (Affine((1.0,) * 2, (0.0,) * 3).problem(of) or "")
    assert "no axis 2" in (Affine((1.0,) * 3, (0.0,) * 3, axis=2).problem(of) or "")
    assert "not all finite" in (Affine((1.0, np.inf, 1.0), (0.0,) * 3).problem(of) or "")
