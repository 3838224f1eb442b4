"""Parts of encoding: pictures as diffusers reads them, constants of several rows, and absent masks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")
from fewstep.pipelines.companions.encoding import _as_array, _check_constant, _read_picture
from fewstep.pipelines.relations.arguments import Argument
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Condition
from tests.refusals import refuses

PATH = "['added']"


def test_a_picture_is_turned_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (64, 32))
    exif = picture.getexif()
    exif[0x0112] = 6  # orientation: turned by 90 degrees
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert _read_picture(tmp_path / "turned.jpg").size == (32, 64)


def test_a_picture_above_the_limit_of_pixels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (64, 32)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 32 // 2 - 1)
    with refuses(("large.png", "2048 pixels")):
        _read_picture(tmp_path / "large.png")


def test_a_file_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match="text.png cannot be read"):
        _read_picture(tmp_path / "text.png")


def test_a_picture_of_16_bits_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(tmp_path / "deep.png")
    with refuses(("deep.png", "more than 8 bits")):
        _read_picture(tmp_path / "deep.png")


def test_the_rows_of_a_padded_batch_have_the_value_of_a_constant() -> None:
    _check_constant("Wan", Argument(PATH, torch.tensor([[3.0]]), repeats=1), [torch.tensor([[3.0], [3.0]])])


@pytest.mark.parametrize(
    ("repeats", "value"), [(1, torch.tensor([[3.0], [4.0]])), (0, torch.tensor([[3.0], [3.0]])), (1, None)]
)
def test_another_value_of_a_constant_is_refused(repeats: int, value: torch.Tensor | None) -> None:
    with pytest.raises(UserError, match=r"Wan: the network's argument \['added'\] differs"):
        _check_constant("Wan", Argument(PATH, torch.tensor([[3.0]]), repeats=repeats), [value])


def test_an_absent_mask_is_ones() -> None:
    mask = Condition("mask", "mask", (2,), "int64", low=0, high=1)
    np.testing.assert_array_equal(_as_array("Wan", "mask", None, mask, ()), [1, 1])


def test_an_absent_embedding_is_refused() -> None:
    with refuses(("Wan passes no 'text'", "recorded with one")):
        _as_array("Wan", "text", None, Condition("text", "text", (2,), "float32"), ())
