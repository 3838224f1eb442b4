"""Pictures of the page: plots with values at the right place of their axis, and grids with the right pixels."""

import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from fewstep.plans.errors import UserError
from fewstep.report.drawing import plots
from fewstep.report.drawing.pictures import GAP, GAP_SHADE, amplify_difference, draw_grid, encode_png, to_pixels
from fewstep.report.drawing.plots import Series


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def test_ticks_enclose_the_data_in_round_steps():
    assert plots.ticks(0, 10) == (0, 2, 4, 6, 8, 10)
    assert plots.ticks(31.2, 38.9) == (30, 32, 34, 36, 38, 40)
    assert plots.ticks(-0.031, 0.02) == (-0.04, -0.02, 0, 0.02)
    assert plots.ticks(5, 5) == (4.4, 4.6, 4.8, 5.0, 5.2, 5.4, 5.6)
    assert plots.ticks(0, 0.3, 3) == (0, 0.1, 0.2, 0.3)


def test_ticks_refuse_what_is_not_a_number():
    with pytest.raises(ValueError, match="finite"):
        plots.ticks(0, float("nan"))


def test_points_lie_where_the_ticks_say():
    svg = parse(plots.line_plot([Series("a", [0, 1, 2], [0, 5, 10])], "step", "dB", x_ticks=[0, 1, 2]))
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter("circle")]
    labels = {t.text: t for t in svg.iter("text")}
    assert circles[0][1] == plots.HEIGHT - plots.BOTTOM and circles[2][1] == plots.TOP
    assert circles[1][1] == pytest.approx((circles[0][1] + circles[2][1]) / 2)
    assert float(labels["10"].get("y")) - 4 == circles[2][1]
    assert circles[1][0] == pytest.approx(float(labels["1"].get("x")), abs=0.01)


def test_each_series_has_its_legend_curve_and_titles():
    svg = plots.line_plot([Series("a < b", [0, 1], [1, 2]), Series("c", [0, 1], [2, 3], 1, True)], "x", "y")
    tree = parse(svg)
    assert [t.text for t in tree.iter("text") if t.get("class") == "legend"] == ["a < b", "c"]
    curves = list(tree.iter("polyline"))
    assert [curve.get("class") for curve in curves] == ["curve c0", "curve c1 dashed"]
    assert next(tree.iter("title")).text == "a < b: 1 at 0"
    assert "http" not in svg and "<script" not in svg


def test_a_histogram_counts_every_value_once():
    values = [30.0, 31.2, 31.4, 33.9, 36.0]
    tree = parse(plots.histogram([("int8", values)], "PSNR (dB)"))
    titles = [title.text for title in tree.iter("title")]
    assert sum(int(title.split()[1]) for title in titles) == len(values)
    assert sum(rect.get("class") == "f0" for rect in tree.iter("rect")) == len(titles)


def test_histogram_heights_are_proportional_to_counts():
    tree = parse(plots.histogram([("a", [0, 0, 0, 1])], "x"))
    heights = sorted(float(rect.get("height")) for rect in tree.iter("rect"))
    assert heights[1] == pytest.approx(3 * heights[0], rel=1e-3)


def test_bars_start_at_zero_and_share_a_scale():
    tree = parse(plots.bar_plot([("float32", 10.0), ("int8", 5.0)], lambda value: f"{value:.1f} ms"))
    wide, narrow = (float(rect.get("width")) for rect in tree.iter("rect"))
    assert narrow == pytest.approx(wide / 2)
    assert [t.text for t in tree.iter("text")] == ["float32", "10.0 ms", "int8", "5.0 ms"]


def test_one_point_is_enough():
    parse(plots.line_plot([Series("a", [3], [7])], "x", "y"))
    parse(plots.histogram([("a", [2.0, 2.0])], "x"))


def test_values_that_only_rounding_keeps_apart_have_an_axis():
    ruled = plots.ticks(100 - 1e-13, 100 + 1e-13)
    assert ruled[0] < 100 < ruled[-1]
    assert "polyline" in plots.line_plot([Series("a", [0, 1], [100, 100 + 1e-13])], "x", "y")


def test_model_range_maps_to_bytes_with_clamping():
    assert to_pixels(np.array([-2, -1, 0, 0.5, 1, 9.0])).tolist() == [0, 0, 128, 191, 255, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_keep_their_order_and_place(channels):
    shades = np.linspace(-1, 1, 5)
    samples = np.broadcast_to(shades[:, None, None, None], (5, channels, 4, 6))
    image = Image.open(io.BytesIO(encode_png(draw_grid(samples, columns=3, scale=2))))
    pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (2 * (2 * 4 + GAP), 2 * (3 * 6 + 2 * GAP), 3)
    for index, value in enumerate(to_pixels(shades)):
        top, left = index // 3 * (4 + GAP) * 2, index % 3 * (6 + GAP) * 2
        assert (pixels[top : top + 8, left : left + 12] == value).all()
    assert (pixels[:8, 12] == GAP_SHADE).all()


def test_rgb_channels_are_not_mixed():
    red = np.full((1, 3, 2, 2), -1.0)
    red[:, 0] = 1
    assert np.asarray(draw_grid(red, columns=8))[0, 0].tolist() == [255, 0, 0]


def test_difference_is_signed_and_grey_where_equal():
    references = np.zeros((1, 1, 2, 2))
    samples = references + np.array([[0, 0.01], [-0.01, 5]])
    assert amplify_difference(samples, references, gain=10)[0, 0] == pytest.approx(np.array([[0, 0.1], [-0.1, 1]]))


def test_what_is_not_a_picture_says_so():
    with pytest.raises(UserError, match=r"1 or 3 channels.*\[4, 8, 8\]"):
        draw_grid(np.zeros((2, 4, 8, 8)), columns=2)
    samples = np.zeros((3, 1, 2, 2))
    samples[2, 0, 1, 1] = np.nan
    with pytest.raises(UserError, match="sample 2 contains NaN"):
        draw_grid(samples, columns=2)
