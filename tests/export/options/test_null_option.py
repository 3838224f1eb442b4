"""`--null class=10`: the null value, where a source has none."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.export.options.null_option import add_null_files, read_null_values, strip_folder, with_nulls
from fewstep.graph.files.commit import open_for_update
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.bundle.reading import Bundle
from tests.export.denoisers import Labelled, source
from tests.graph.files.test_commit import manifest

CLASS = Condition("class", "label", low=0, high=10)
TEXT = Condition("text", "text", (4,), "float32")


@pytest.mark.parametrize(
    ("condition", "text", "null", "low", "high"),
    [
        (CLASS, "class=10", 10, 0, 9),
        (CLASS, "class=0", 0, 1, 10),
        (CLASS, "class=5", 5, 0, 10),
        (CLASS, "class=-1", -1, 0, 10),
        (TEXT, "text=0", 0.0, None, None),
        (Condition("class", "label", null=3, low=0, high=1, labels=("a", "b")), "class=1", 1, 0, 1),
    ],
)
def test_a_null_value_is_none_of_those_to_choose_from(
    condition: Condition, text: str, null: float, low: float | None, high: float | None
) -> None:
    (made,) = with_nulls(source(Labelled(), condition), [text]).spec.conditions
    assert (made.null, made.low, made.high) == (null, low, high)


@pytest.mark.parametrize("text", ["style=0", "style=@{file}"])
def test_a_shared_condition_is_no_longer_shared(text: str, tmp_path: Path) -> None:
    np.save(tmp_path / "null.npy", np.zeros(4, np.float32))
    shared = Condition("style", "style", (4,), "float32", shared=True)
    (made,) = with_nulls(source(Labelled(), shared), [text.format(file=tmp_path / "null.npy")]).spec.conditions
    assert not made.shared


def test_the_others_stay() -> None:
    made = with_nulls(source(Labelled(), CLASS, TEXT), ["text=0.5"]).spec
    assert made.conditions[0] == CLASS and made.conditions[1].null == 0.5
    assert with_nulls(source(Labelled(), CLASS), []).spec.conditions == (CLASS,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("klass=10", "has no condition 'klass'; it has class; write NAME=VALUE"),
        ("class", "'' is not a whole number"),
        ("class=ten", "'ten' is not a whole number"),
        ("class=1.5", r"'1\.5' is not a whole number"),
    ],
)
def test_a_wrong_one_is_named(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        with_nulls(source(Labelled(), CLASS), [text])


def test_an_array_comes_from_a_file_and_lies_in_the_bundle(tmp_path: Path) -> None:
    empty, texts = np.arange(4, dtype=np.float32), [f"text=@{tmp_path / 'null.npy'}"]
    np.save(tmp_path / "null.npy", empty)
    conditions = with_nulls(source(Labelled(), CLASS, msgspec.structs.replace(TEXT, null=0.0)), texts).spec.conditions
    assert conditions == (CLASS, TEXT) and strip_folder(texts[0]) == "text=@null.npy"
    with open_for_update(tmp_path / "b", must_exist=False) as writer:
        file = writer.add(b"graph", "graphs", "body", ".onnx")
        written = writer.commit(
            add_null_files(writer, msgspec.structs.replace(manifest(file), conditions=(TEXT,)), texts)
        )
        np.testing.assert_array_equal(Bundle(tmp_path / "b", written).null(written.conditions[0]), empty)
    np.save(tmp_path / "null.npy", empty[:3])
    with pytest.raises(UserError, match=r"not float32 \[4\]"):
        with_nulls(source(Labelled(), TEXT), texts)


def test_an_array_of_an_npz_file_is_the_one_of_the_condition(tmp_path: Path) -> None:
    file = tmp_path / "empty.npz"
    np.savez(file, text=np.arange(4, dtype=np.float32)[None], other=np.zeros(3))
    assert read_null_values(source(Labelled(), TEXT).spec, [f"text=@{file}"])["text"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"other": np.zeros((1, 4), np.float32)}, "it has no array 'text'"),
        ({"text": np.zeros((2, 4), np.float32)}, "its array 'text' has 2 rows, not one"),
    ],
)
def test_an_npz_file_without_one_row_of_the_condition_is_refused(
    arrays: dict[str, np.ndarray], says: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "empty.npz", **arrays)
    with pytest.raises(UserError, match=says):
        with_nulls(source(Labelled(), TEXT), [f"text=@{tmp_path / 'empty.npz'}"])


def test_a_damaged_npz_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(UserError, match=r"empty\.npz cannot be read"):
        with_nulls(source(Labelled(), TEXT), [f"text=@{tmp_path / 'empty.npz'}"])
