"""Arguments of a pipeline's call as --call gives them."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.export.options.call_option import parse_call
from fewstep.plans.errors import UserError
from tests.refusals import refuses


def test_a_file_is_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "embeds.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    given = parse_call((f"image_embeds=@{tmp_path / 'embeds.npy'}", "height=64"))
    assert given["height"] == 64
    np.testing.assert_array_equal(given["image_embeds"], [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize(("stored", "read"), [(">f8", "float32"), ("<f2", "float32"), (">i4", "int32"), ("?", "bool")])
def test_floats_have_the_type_of_a_pipeline_and_integers_their_own(stored: str, read: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([0, 1]).astype(stored))
    array = parse_call((f"x=@{tmp_path / 'x.npy'}",))["x"]
    assert (array.dtype, array.dtype.isnative, array.tolist()) == (np.dtype(read), True, [0, 1])


def test_a_file_that_is_absent_is_refused(tmp_path: Path) -> None:
    with refuses(("--call embeds", "none.npy"), "give a .npy file"):
        parse_call((f"embeds=@{tmp_path / 'none.npy'}",))


def test_a_file_of_texts_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "texts.npy", np.array(["a", "b"]))
    with refuses("texts.npy"):
        parse_call((f"embeds=@{tmp_path / 'texts.npy'}",))


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "archive.npy").write_bytes(b"PK\x03\x04 and no more")
    with refuses("archive.npy", "give a .npy file"):
        parse_call((f"x=@{tmp_path / 'archive.npy'}",))


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="objects.npy cannot be read"):
        parse_call((f"embeds=@{tmp_path / 'objects.npy'}",))
