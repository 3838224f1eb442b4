import numpy as np
import pytest

from fewstep.measure.distances.references import open_references
from fewstep.plans.errors import UserError


def stored(folder, array):
    np.save(folder / "real.npy", array)
    return folder / "real.npy"


def test_bytes_and_floats_both_come_in_model_range(tmp_path):
    images = np.array([[0, 255], [51, 204]], np.uint8).reshape(2, 1, 1, 2)
    (found,) = open_references(stored(tmp_path, images), (1, 1, 2)).batches()
    assert found.dtype == np.float32 and found.reshape(-1) == pytest.approx([-1, 1, -0.6, 0.6])
    references = open_references(stored(tmp_path, found), (1, 1, 2))
    assert references.name == "real" and np.array_equal(np.concatenate(list(references.batches())), found)


def test_grey_images_need_no_channel_axis_and_batches_hold_all(tmp_path):
    images = np.random.default_rng(0).integers(256, size=(600, 4, 5)).astype(np.uint8)
    references = open_references(stored(tmp_path, images), (1, 4, 5))
    parts = list(references.batches())
    assert len(references) == sum(map(len, parts)) == 600 and len(parts) == 3 and parts[0].shape[1:] == (1, 4, 5)


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.zeros((3, 2, 2, 2), np.uint8), "has the shape"),
        (np.zeros((1, 1, 2, 2), np.uint8), "has the shape"),
        (np.zeros((3, 1, 2, 2), np.int64), "holds int64"),
        (np.full((3, 1, 2, 2), 255.0), r"outside \[-1, 1\]"),
        (np.array([{}], object), "cannot be read"),
    ],
)
def test_what_is_no_such_array_is_told(tmp_path, array, what):
    with pytest.raises(UserError, match=what):
        open_references(stored(tmp_path, array), (1, 2, 2))
