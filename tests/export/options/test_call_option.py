"""Arguments of a pipeline's call as --call gives them."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.export.options.call_option import parse_call
from fewstep.plans.errors import UserError


def test_a_file_is_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "embeds.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    given = parse_call((f"image_embeds=@{tmp_path / 'embeds.npy'}", "height=64"))
    assert given["height"] == 64
    np.testing.assert_array_equal(given["image_embeds"], [[0, 1, 2], [3, 4, 5]])


def test_a_file_that_is_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--call embeds=@.*none.npy cannot be read \(No such file.*; give a .npy file"):
        parse_call((f"embeds=@{tmp_path / 'none.npy'}",))


def test_a_file_of_texts_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "texts.npy", np.array(["a", "b"]))
    with pytest.raises(UserError, match="texts.npy is not an array of numbers"):
        parse_call((f"embeds=@{tmp_path / 'texts.npy'}",))


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="objects.npy cannot be read"):
        parse_call((f"embeds=@{tmp_path / 'objects.npy'}",))
