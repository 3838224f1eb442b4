"""Grids: the right pixels at the right place."""

import io

import numpy as np
import pytest
from PIL import Image

from fewstep.plans.errors import UserError
from fewstep.report.drawing.pictures import GAP, GAP_SHADE, difference, grid, png, to_pixels


def test_model_range_maps_to_bytes_with_clamping():
    assert to_pixels(np.array([-2, -1, 0, 0.5, 1, 9.0])).tolist() == [0, 0, 128, 191, 255, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_keep_their_order_and_place(channels):
    shades = np.linspace(-1, 1, 5)
    samples = np.broadcast_to(shades[:, None, None, None], (5, channels, 4, 6))
    image = Image.open(io.BytesIO(png(grid(samples, columns=3, scale=2))))
    pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (2 * (2 * 4 + GAP), 2 * (3 * 6 + 2 * GAP), 3)
    for index, value in enumerate(to_pixels(shades)):
        top, left = index // 3 * (4 + GAP) * 2, index % 3 * (6 + GAP) * 2
        assert (pixels[top : top + 8, left : left + 12] == value).all()
    assert (pixels[:8, 12] == GAP_SHADE).all()


def test_rgb_channels_are_not_mixed():
    red = np.full((1, 3, 2, 2), -1.0)
    red[:, 0] = 1
    assert np.asarray(grid(red, columns=8))[0, 0].tolist() == [255, 0, 0]


def test_difference_is_signed_and_grey_where_equal():
    references = np.zeros((1, 1, 2, 2))
    samples = references + np.array([[0, 0.01], [-0.01, 5]])
    assert difference(samples, references, gain=10)[0, 0] == pytest.approx(np.array([[0, 0.1], [-0.1, 1]]))


def test_what_is_not_a_picture_says_so():
    with pytest.raises(UserError, match=r"1 or 3 channels.*\[4, 8, 8\]"):
        grid(np.zeros((2, 4, 8, 8)), columns=2)
    samples = np.zeros((3, 1, 2, 2))
    samples[2, 0, 1, 1] = np.nan
    with pytest.raises(UserError, match="sample 2 holds NaN"):
        grid(samples, columns=2)
