from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image

from benchmarks.shipped.cards import loss_svg, write_samples


def test_samples_are_a_grid_of_enlarged_pixels(tmp_path):
    images = torch.full((6, 3, 4, 5), -1.0)
    images[4] = torch.tensor([1.0, 0.0, -2.0])[:, None, None]  # second row, second of three
    write_samples(images, 3, tmp_path / "grid.png")
    pixels = np.asarray(Image.open(tmp_path / "grid.png"))
    assert pixels.shape == (2 * 8, 3 * 10, 3)
    assert (pixels[8:, 10:20] == [255, 128, 0]).all() and (pixels[:8] == 0).all() and (pixels[8:, :10] == 0).all()


def test_grey_samples_are_a_grey_picture(tmp_path):
    write_samples(torch.zeros(4, 1, 3, 3), 2, tmp_path / "grid.png")
    assert Image.open(tmp_path / "grid.png").mode == "L"


def test_the_loss_is_a_drawing_that_ends_at_the_last_step():
    svg = ElementTree.fromstring(loss_svg([(50, 1.0), (100, 0.25)]))
    points = svg.find("{http://www.w3.org/2000/svg}polyline").get("points").split()
    assert len(points) == 2 and points[1].split(",") == ["620.0", "210.0"]
