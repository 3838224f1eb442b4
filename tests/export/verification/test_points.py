"""Where graphs are compared with their source."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.export.spec import Spec
from fewstep.export.verification.points import (
    BATCHES,
    QUICK_BATCH,
    SIZED_BATCH,
    TIMES,
    comparison_points,
    sizes_to_verify,
)
from fewstep.models.fashion_mnist.unet import NULL_CLASS
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime.bundle.manifest import Condition, Size
from fewstep.runtime.bundle.reading import open_bundle
from tests.export.denoisers import Exported
from tests.free_size_bundle import free


@pytest.mark.slow
def test_points_cover_times_batches_and_conditions(unet: Exported) -> None:
    seen = list(comparison_points(unet.source.spec))
    assert {point.batch for point in seen} == set(BATCHES) and len({point.time for point in seen}) == TIMES
    labels = np.concatenate([point.feeds["class"] for point in seen])
    assert NULL_CLASS in labels and set(range(NULL_CLASS)) <= set(labels.tolist())


def test_number_conditions_keep_to_their_bounds() -> None:
    image = Condition("image", "image", shape=(3, 2), dtype="float32", low=0.0, high=2.0, null=-1.0)
    mask = Condition("mask", "mask", shape=(2,), dtype="bool")
    spec = Spec("s", (1, 2, 2), (image, mask), "epsilon", ScheduleSpec("linear"))
    values = np.concatenate([point.feeds["image"] for point in comparison_points(spec)])
    masks = np.concatenate([point.feeds["mask"] for point in comparison_points(spec)])
    assert values.dtype == np.float32 and values.shape[1:] == (3, 2)
    assert values.max() <= 2 and values.min() == -1 and values[values != -1].min() >= 0
    assert masks.dtype == bool and masks.any() and not masks.all()


def test_other_sizes_are_visited_after_the_default_ones() -> None:
    image = Condition("image", "image", shape=(3, 8, 8), dtype="float32", follows={1: "height", 2: "width"})
    sizes = (Size("height", 1, 4, 16, 4), Size("width", 2, 4, 16, 4))
    spec = Spec("s", (1, 8, 8), (image,), "epsilon", ScheduleSpec("linear"), sizes=sizes)
    seen = list(comparison_points(spec))
    first, others = seen[: TIMES * len(BATCHES)], seen[TIMES * len(BATCHES) :]
    assert {point.feeds["x"].shape[1:] for point in first} == {(1, 8, 8)}
    assert {point.feeds["x"].shape[2:] for point in others} >= {(4, 4), (16, 16)}
    assert all(point.feeds["image"].shape[2:] == point.feeds["x"].shape[2:] for point in seen)
    assert {point.batch for point in others} == {SIZED_BATCH} and str(others[0]).endswith(", height 4, width 4")


def test_single_samples_come_first_and_a_quick_one_takes_few() -> None:
    sizes = (Size("height", 1, 4, 16, 4), Size("width", 2, 4, 16, 4))
    spec = Spec("s", (1, 8, 8), (), "epsilon", ScheduleSpec("linear"), sizes=sizes)
    batches = [point.batch for point in comparison_points(spec)][: TIMES * len(BATCHES)]
    assert batches == sorted(batches)
    quick, full = list(comparison_points(spec, "quick")), list(comparison_points(spec))
    assert [point.batch for point in quick] == [QUICK_BATCH, SIZED_BATCH]
    noisiest, cleanest = quick[0].feeds["time"]
    assert noisiest == full[0].time == max(point.time for point in full)
    assert cleanest == min(point.time for point in full)
    assert quick[1].sizes == full[TIMES * len(BATCHES)].sizes != full[0].sizes


def test_verification_visits_the_default_the_ends_and_a_mixture(tiny_bundle: Path) -> None:
    manifest = open_bundle(free(tiny_bundle)).manifest
    found = sizes_to_verify(manifest)
    assert found[0] == {"height": 4, "width": 4}
    assert {"height": 2, "width": 4} in found and {"height": 2, "width": 8} in found
    assert {"height": 12, "width": 8} not in found  # six times the elements of the default


@pytest.mark.parametrize(
    ("height", "expected"),
    [
        (Size("height", 1, 8, 32, 2), 22),  # where a network that pads to a multiple of 4 or 8 pads
        (Size("height", 1, 24, 32, 8), 32),
        (Size("height", 1, 24, 48, 12), 36),  # odd, though three times the number
        (Size("height", 1, 24, 960, 24), 48),  # at most twice the default
    ],
)
def test_verification_visits_an_odd_multiple_near_the_default(height: Size, expected: int) -> None:
    spec = Spec("s", (1, 24, 8), (), "epsilon", ScheduleSpec("linear"), sizes=(height,))
    assert {"height": expected} in sizes_to_verify(spec)


def test_a_quick_verification_steps_to_cleaner_times() -> None:
    """Also in its batch of the noisiest and the cleanest time."""
    spec = Spec("s", (1, 2, 2), (), "flow", ScheduleSpec("flow"), to="r")
    (point,) = comparison_points(spec, "quick")
    assert (point.feeds["time_to"] < point.feeds["time"]).all()
