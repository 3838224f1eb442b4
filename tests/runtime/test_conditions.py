"""Conditions of every dtype: what fits is taken as it is, what does not is refused instead of wrapped around."""

from typing import Any

import numpy as np
import pytest

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Condition, DType
from fewstep.runtime.conditions import check


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
        ("bool", 1),
        ("float32", 1e39),
        ("float32", float("inf")),
        ("float32", float("nan")),
        ("float16", 65520),
    ],
)
def test_a_value_that_does_not_fit_is_named(dtype: DType, value: Any) -> None:
    kind = {"f": "finite", "b": "truth value of type"}.get(dtype[0], "whole number of type")
    with pytest.raises(UserError, match=rf"condition 'c': .* is no {kind} {dtype}") as failure:
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
    with pytest.raises(UserError, match=r"one value has the shape \[3\]; give float32 values of shape \[2, 3\]"):
        check([image], {"image": given[0]}, 2)
