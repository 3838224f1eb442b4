"""Random pictures and masks: their properties, and the conditions that they replace."""

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from fewstep.measure.rollouts.conditions_file import random_note
from fewstep.measure.rollouts.pictures import is_mask, is_picture, picture_axes
from fewstep.measure.rollouts.seeds import (
    draw_conditions,
    fixed_conditions,
    held_out_conditions,
    kept_defaults,
    random_conditions,
)
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition, Description
from fewstep.runtime.kinds.sound import Spectrogram
from tests.measure.rollouts.inpainting import MASK, MASKED

SIDE = 32
SEEDS = range(40)
PICTURE = Condition("seen", "seen", (3, SIDE, SIDE), "float32", low=0, high=255)
HOLE = Condition("hole", "hole", (1, SIDE, SIDE), "bool")
NUMBERS = Condition("numbers", "numbers", (1, SIDE, SIDE), "float32", low=0, high=1)


def denoiser(*conditions: Condition, shape: tuple[int, ...] = (3, SIDE, SIDE), **fields: Any) -> Description:
    return Description("tiny", shape, conditions, "v", ScheduleSpec("cosine"), **fields)


def drawn(condition: Condition, **fields: Any) -> np.ndarray:
    return draw_conditions(denoiser(condition, **fields), SEEDS)[condition.name]


def correlation(pictures: np.ndarray) -> float:
    """Return the correlation of neighbours in a row."""
    return float(np.corrcoef(pictures[..., 1:].ravel(), pictures[..., :-1].ravel())[0, 1])


@pytest.mark.parametrize("condition", [HOLE, NUMBERS])
def test_a_mask_is_zeros_and_ones_of_one_part(condition: Condition) -> None:
    masks = drawn(condition)
    assert masks.dtype == condition.dtype and set(np.unique(masks).tolist()) == {0, 1}
    assert 0.2 < masks.mean() < 0.6
    changes = np.count_nonzero(np.diff(masks[:, 0].astype(int), axis=-1), axis=-1)
    assert changes.max() <= 2  # a row crosses the edge of a box twice, and that of a half-plane once


def test_neighbours_in_a_picture_agree_and_it_has_its_range() -> None:
    pictures = drawn(PICTURE)
    assert pictures.shape == (40, 3, SIDE, SIDE) and pictures.min() == 0 and pictures.max() == 255
    assert correlation(pictures) > 0.85
    assert correlation(drawn(PICTURE, shape=(3, SIDE, 2 * SIDE))) == pytest.approx(0, abs=0.02)  # another form: noise


def test_pictures_differ_in_grey_and_in_contrast() -> None:
    pictures = drawn(PICTURE) / 255
    greys, contrasts = pictures.mean((1, 2, 3)), pictures.std((1, 2, 3))
    assert greys.min() < 0.3 and greys.max() > 0.7 and contrasts.max() > 4 * contrasts.min()


def test_a_picture_follows_from_its_seed_alone() -> None:
    takes = denoiser(HOLE, PICTURE)
    many, one = held_out_conditions(takes, range(5)), held_out_conditions(takes, [3])
    assert np.array_equal(many["hole"][3:4], one["hole"]) and np.array_equal(many["seen"][3:4], one["seen"])


@pytest.mark.parametrize(
    ("fields", "axes"),
    [
        ({"shape": (3, 16, 16)}, (16, 16)),
        ({"shape": (4, 8, 16, 24)}, (16, 24)),
        ({"shape": (64, 2)}, ()),
        ({"shape": (2, 64, 32), "spectrogram": Spectrogram()}, ()),
    ],
)
def test_samples_of_channels_and_two_axes_are_pictures(fields: dict[str, Any], axes: tuple[int, ...]) -> None:
    assert picture_axes(denoiser(**fields)) == axes


def test_which_conditions_are_masks_and_pictures() -> None:
    def kind(shape: tuple[int, ...], dtype: Any = "float32", **limits: Any) -> str:
        condition = Condition("c", "c", shape, dtype, **limits)
        return "mask" if is_mask(condition, (16, 24)) else "picture" if is_picture(condition, (16, 24)) else "other"

    assert kind((1, 16, 24), low=0, high=1) == kind((16, 24), low=0, high=1) == kind((1, 16, 24), "bool") == "mask"
    assert kind((3, 16, 24), low=0, high=1) == kind((1, 16, 24), low=-1, high=1) == "picture"
    assert kind((3, 64, 96), typical=(-1.0, 1.0)) == "picture"  # of the same proportions
    assert kind((1, 77, 768), typical=(-1.0, 1.0)) == kind((24,), low=0, high=1) == "other"
    assert kind((3, 2, 3), typical=(-1.0, 1.0)) == kind((3, 16, 24), "int64", low=0, high=5) == "other"


def test_other_conditions_keep_their_bits() -> None:
    state = Condition("state", "state", (2, 3), "float32", low=-1, high=1)
    (one,) = draw_conditions(denoiser(state), [5])["state"]
    expected = [-0.4429761, 0.5061818, -0.2265144, 0.290224, -0.1556325, 0.5414813]
    assert one.ravel().tolist() == pytest.approx(expected, abs=1e-6)


def test_a_class_a_number_and_a_default_are_not_called_random() -> None:
    label, weight = Condition("class", "class", low=0, high=9), Condition("weight", "w", (), "float32", low=1, high=4)
    kept = Condition("size", "size", (2,), "float32", low=0, high=9, default=(1.0,))
    assert random_conditions([label, weight, kept, MASK, MASKED]) == ("mask", "masked")
    assert random_note(()) is None


def test_conditions_that_keep_their_default_are_named() -> None:
    label = Condition("class", "class", low=0, high=9, default=(2,))
    fixed, none = replace(label, name="fixed", low=2, high=2), replace(label, name="none", null=2)
    drawn = replace(label, name="drawn", typical=(0, 9))
    assert kept_defaults([label, fixed, none, drawn, MASK], None) == ("class",)
    records = {"class": np.array([2, 3]), "fixed": np.array([2, 2]), "none": np.array([2, 2])}
    assert kept_defaults([label, fixed, none], records) == ("none",)


def test_conditions_of_one_value_are_named() -> None:
    label, vector = Condition("class", "class", low=0, high=9), Condition("v", "v", (2,), "float32")
    records = {"class": np.array([3, 3]), "v": np.array([[1.0, 2.0], [1.0, 3.0]], np.float32)}
    assert fixed_conditions([label, vector], records) == ("class",)
    one = {name: values[:1] for name, values in records.items()}
    assert fixed_conditions([label, vector], one) == ("class", "v") and fixed_conditions([label], None) == ()
