"""Conditions of every dtype, their default values, and their values in the unconditional branch."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.plans.errors import UserError
from fewstep.runtime import load
from fewstep.runtime.bundle.conditions import check, has_unconditional_form, null, read_null
from fewstep.runtime.bundle.manifest import Condition, DType
from fewstep.runtime.kinds.condition import condition_problem
from fewstep.runtime.sampling.feeds import branch_values
from tests.bundles import change_bundle
from tests.refusals import refuses


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int64", -(2**63)),
        ("int32", 2**31 - 1),
        ("uint8", 255),
        ("int8", -128),
        ("bool", True),
        ("float32", 3),
        ("float16", -65504.0),
    ],
)
def test_a_value_that_fits_is_taken_as_it_is(dtype: DType, value: Any) -> None:
    array = check([Condition("c", "c", dtype=dtype)], {"c": [value]}, 1)["c"]
    assert array.dtype == dtype and array.tolist() == [value]
    assert condition_problem(Condition("c", "c", dtype=dtype, null=value)) is None


def test_integers_of_an_object_array_are_integers() -> None:
    values = np.array([[0, 255], [1, np.int8(2)]], object)
    array = check([Condition("c", "c", (2,), "uint8", low=0, high=255)], {"c": values}, 2)["c"]
    assert array.dtype == np.uint8 and array.tolist() == [[0, 255], [1, 2]]


@pytest.mark.parametrize(
    "values", [[True, 1], [[True], [2]], [np.True_, 1], np.array([True, 1], object), [np.array([True]), np.array([1])]]
)
def test_booleans_among_numbers_are_no_integers(values: Any) -> None:
    shape = (1,) if np.ndim(values) == 2 else ()
    with refuses("condition 'c' is not an array of numbers (it has truth values and numbers)"):
        check([Condition("c", "c", shape)], {"c": values}, 2)


def test_booleans_of_an_object_array_are_booleans() -> None:
    values = np.array([[True, False], [False, True]], object)
    assert check([Condition("c", "c", (2,), "bool")], {"c": values}, 2)["c"].tolist() == values.tolist()
    with refuses("condition 'c': True is not a whole number of type int64"):
        check([Condition("c", "c", (2,))], {"c": values}, 2)


@pytest.mark.parametrize(
    "values",
    [
        [1, 0, 1],
        [1.0, 0.0, 1.0],
        ["true", "False", 1],
        [True, 0, "true"],
        np.array([1, 0, 1], np.uint8),
        np.array([True, False, True]),
    ],
)
def test_zeros_ones_and_their_labels_are_booleans(values: Any) -> None:
    array = check([Condition("flag", "flag", dtype="bool")], {"flag": values}, 3)["flag"]
    assert array.dtype == np.bool_ and array.tolist() == [True, False, True]


def test_a_mask_of_numbers_is_one_of_booleans() -> None:
    mask = np.array([[[0, 1], [1, 1]]], np.float32)
    array = check([Condition("mask", "mask", (2, 2), "bool")], {"mask": mask}, 1)["mask"]
    assert array.tolist() == [[[False, True], [True, True]]]


def test_the_fix_for_a_boolean_names_its_values() -> None:
    with refuses("condition 'flag': unknown value 'yes'", "give one bool, 0 or 1"):
        check([Condition("flag", "flag", dtype="bool", low=0, high=1)], {"flag": ["yes"]}, 1)


def test_a_whole_number_that_a_file_would_round_is_named() -> None:
    for field in ("null", "low", "high"):
        assert condition_problem(Condition("c", "c", **{field: 2**53 + 2})) is None
        found = condition_problem(Condition("c", "c", **{field: 2**53 + 1}))
        assert found is not None and found[0] == field
        assert found[1].startswith("9007199254740993 cannot be stored exactly")


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("int64", 2**63),
        ("int64", 1.0),
        ("int64", True),
        ("int32", 2**31),
        ("uint8", -1),
        ("uint8", 256),
        ("int8", 128),
        ("bool", 2),
        ("bool", 0.5),
        ("float32", 1e39),
        ("float32", float("inf")),
        ("float32", float("nan")),
        ("float16", 65520),
    ],
)
def test_a_value_that_does_not_fit_is_named(dtype: DType, value: Any) -> None:
    kind = {"f": "finite", "b": "truth value of type"}.get(dtype[0], "whole number of type")
    with pytest.raises(UserError, match=rf"condition 'c': .* is not a {kind} {dtype}") as failure:
        check([Condition("c", "c", dtype=dtype)], {"c": [value]}, 1)
    assert repr(value) in str(failure.value)


@pytest.mark.parametrize(("value", "named"), [(2**70, "1.18"), (10**400, "too large"), (1j, "1j"), (None, "None")])
@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_a_value_that_no_type_holds_is_one_line(dtype: DType, value: Any, named: str) -> None:
    if (dtype, value) == ("float32", 2**70):
        assert check([Condition("c", "c", dtype=dtype)], {"c": [value]}, 1)["c"].tolist() == [2.0**70]
        return
    with pytest.raises(UserError, match=f"condition 'c'.*{named}.*; give one {dtype}"):
        check([Condition("c", "c", dtype=dtype)], {"c": [value]}, 1)


def test_values_have_the_shape_of_the_condition() -> None:
    image = Condition("image", "image", shape=(2, 3), dtype="float32")
    given = np.arange(12.0).reshape(2, 2, 3)
    np.testing.assert_array_equal(check([image], {"image": given}, 2)["image"], given)
    with refuses("one value has the shape [3]", "[2, 3]"):
        check([image], {"image": given[0]}, 2)


@pytest.mark.parametrize(
    "convert",
    [
        memoryview,
        lambda array: memoryview(np.asfortranarray(array)),
        lambda array: [memoryview(row) for row in array],
        np.ctypeslib.as_ctypes,
        lambda array: memoryview(array.astype(">f4")),
    ],
)
def test_a_buffer_of_several_axes_is_an_array(convert: Any) -> None:
    image = Condition("image", "image", shape=(2, 3), dtype="float32")
    given = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    np.testing.assert_array_equal(check([image], {"image": convert(given)}, 2)["image"], given)


TEXT = Condition("text", "text", (2,), "float32", null_file="graphs/null.npy")
POOLED = Condition("pooled", "pooled", (2,), "float32", null=0.0)
SIZE = Condition("size", "size", (2,), "float32", shared=True, default=(8.0, 9.0))
NULLS = {"text": np.array([5, 6], np.float32)}


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_each_kind_of_null_value() -> None:
    given = {"text": [[1, 2], [3, 4]], "pooled": [[1, 2], [3, 4]]}
    values = branch_values((TEXT, POOLED, SIZE), given, None, 2, NULLS)
    cond, uncond = values("cond"), values("uncond")
    np.testing.assert_array_equal(cond["size"], [[8, 9], [8, 9]])
    np.testing.assert_array_equal(uncond["text"], [[5, 6], [5, 6]])
    np.testing.assert_array_equal(uncond["pooled"], np.zeros((2, 2)))
    np.testing.assert_array_equal(uncond["size"], cond["size"])


def test_a_negative_prompt_leaves_what_has_no_null_value_as_it_is() -> None:
    given = {"text": [[1, 2]], "pooled": [[1, 2]], "size": [[3, 3]]}
    negative = {"uncond": {"text": [[7, 7]], "pooled": None}}
    uncond = branch_values((TEXT, POOLED, SIZE), given, negative, 1, NULLS)("uncond")
    assert [uncond[name].tolist() for name in ("text", "pooled", "size")] == [[[7, 7]], [[0, 0]], [[3, 3]]]


def test_what_a_negative_prompt_does_not_name_has_its_null_value() -> None:
    given = {"text": [[1, 2]], "pooled": [[1, 2]], "size": [[3, 3]]}
    values = branch_values((TEXT, POOLED, SIZE), given, {"uncond": {"pooled": [[7, 7]]}}, 1, NULLS)("uncond")
    assert [values[name].tolist() for name in ("text", "pooled", "size")] == [[[5, 6]], [[7, 7]], [[3, 3]]]


def test_what_can_be_guided() -> None:
    bare = Condition("image", "image", (2,), "float32")
    assert has_unconditional_form((TEXT, POOLED, SIZE)) and has_unconditional_form((TEXT,))
    assert not has_unconditional_form(()) and not has_unconditional_form((SIZE,))
    assert not has_unconditional_form((TEXT, bare))
    with pytest.raises(UserError, match="condition 'image' has no null value"):
        null(bare, np.zeros((1, 2), np.float32), NULLS)


def test_a_default_may_be_left_out_and_all_else_not() -> None:
    assert check((SIZE,), {}, 3)["size"].tolist() == [[8, 9]] * 3
    with pytest.raises(UserError, match="condition 'pooled' is missing"):
        check((POOLED, SIZE), {}, 3)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x93NUMPY", npy(np.zeros(3, np.float32)), npy(np.zeros(2)), npy(np.array([{}], object)), b"PK\x03\x04"],
)
def test_a_null_value_that_does_not_fit(content: bytes) -> None:
    with pytest.raises(ValueError, match="it is not"):
        read_null(TEXT, content)


def test_a_null_value_that_fits() -> None:
    assert read_null(TEXT, npy(NULLS["text"])).tolist() == [5, 6]


def test_guidance_takes_the_null_value_from_its_file(tiny_bundle: Path) -> None:
    """The null value of the label in a file instead of the manifest gives the same samples."""

    import msgspec

    from fewstep.runtime.bundle.reading import open_bundle

    asked = {"plan": "ddim:3", "seeds": [0, 1], "condition": {"class": [0, 2]}, "guidance": 3.0}
    with load(tiny_bundle) as sampler:
        expected = sampler.sample(**asked)
    (label,) = open_bundle(tiny_bundle).manifest.conditions
    content = npy(np.array(int(label.null or 0)))
    label = msgspec.structs.replace(label, null=None, null_file="graphs/null.npy", high=label.null)
    change_bundle(tiny_bundle, {"graphs/null.npy": content}, conditions=(label,))
    with load(tiny_bundle) as sampler:
        np.testing.assert_array_equal(sampler.sample(**asked), expected)


def test_a_default_is_made_once_for_a_number_of_samples_and_cannot_be_changed() -> None:
    first, again, more = check((SIZE,), {}, 2)["size"], check((SIZE,), {}, 2)["size"], check((SIZE,), {}, 3)["size"]
    assert first is again and more.shape == (3, 2) and not first.flags.writeable


@pytest.mark.parametrize("values", [[[0.5, np.nan]], [[np.inf, 0]], [[0.5, 1.5]], [[-0.5, 0]]])
def test_an_array_of_the_right_type_is_checked_as_any_other_value(values: list[list[float]]) -> None:
    condition = Condition("reading", "reading", (2,), "float32", None, 0, 1)
    with pytest.raises(UserError, match="reading"):
        check((condition,), {"reading": np.array(values, np.float32)}, 1)


def test_an_array_of_the_right_type_is_copied() -> None:
    condition = Condition("reading", "reading", (2,), "float32", None, -1, 1)
    given = np.array([[0.5, -1.0]], np.float32)
    taken = check((condition,), {"reading": given}, 1)["reading"]
    given[:] = 0
    assert taken.tolist() == [[0.5, -1.0]] and taken.flags.writeable


def test_a_message_lists_few_of_a_thousand_labels() -> None:
    label = Condition(
        "class", "class", low=0, high=999, null=1000, labels=tuple(f"name{number}" for number in range(1000))
    )
    with pytest.raises(UserError) as refused:
        check([label], {"class": ["goldfish"]}, 1)
    named = "0 name0, 1 name1, 2 name2, 3 name3, 4 name4, ..., 999 name999, or 1000 for none"
    assert str(refused.value) == f"condition 'class': unknown value 'goldfish'; give {named}"


class Measured:
    """An array as some libraries return it: numpy reads it, and a loop does not."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if isinstance(self.values, Exception):
            raise self.values
        return np.array(self.values)


class Unread:
    def __len__(self) -> int:
        return 2


@pytest.mark.parametrize("values", [[1, 2], ["b", "c"]])
def test_an_object_that_numpy_reads_as_an_array_is_accepted(values: list[Any]) -> None:
    condition = Condition("kind", "kind", dtype="int64", low=0, high=2, labels=("a", "b", "c"))
    np.testing.assert_array_equal(check([condition], {"kind": Measured(values)}, 2)["kind"], [1, 2])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (Measured(1), r"condition 'kind' is array\(1\), not one value per sample; give one int64 for each sample"),
        (Measured([1]), "condition 'kind' has 1 value for 2 samples"),
        (Measured(RuntimeError("no host copy")), r"condition 'kind' is not an array \(no host copy\); give one int64"),
        (Unread(), "condition 'kind' is .*Unread object.*, not one value per sample"),
    ],
)
def test_an_object_without_one_value_per_sample_is_refused(values: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check([Condition("kind", "kind", dtype="int64")], {"kind": values}, 2)


@pytest.mark.parametrize(
    ("typical", "is_taken"), [(None, False), ((-1.0, 1.0), False), ((0.0, 255.0), True), ((0.0, 40.0), False)]
)
def test_the_bytes_of_an_image_file_are_no_floats_of_another_range(
    typical: tuple[float, float] | None, is_taken: bool
) -> None:
    picture = Condition("low", "low", (2, 2), "float32", typical=typical)
    image = np.array([[[0, 9], [200, 255]]], np.uint8)
    mask = check([picture], {"low": image // 255}, 1)["low"]
    np.testing.assert_array_equal(mask, [[[0, 0], [0, 1]]])
    if is_taken:
        np.testing.assert_array_equal(check([picture], {"low": image}, 1)["low"], image)
    else:
        with pytest.raises(UserError, match="condition 'low': uint8 values up to 255, as in an image file, are not in"):
            check([picture], {"low": image}, 1)
