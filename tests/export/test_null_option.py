"""`--null class=10`: what stands for none, where a source does not say it."""

import pytest

from fewstep.export.null_option import with_nulls
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Condition
from tests.export.denoisers import Labelled, source

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


def test_the_others_stay() -> None:
    made = with_nulls(source(Labelled(), CLASS, TEXT), ["text=0.5"]).spec
    assert made.conditions[0] == CLASS and made.conditions[1].null == 0.5
    assert with_nulls(source(Labelled(), CLASS), []).spec.conditions == (CLASS,)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("klass=10", "has no condition 'klass'; it has class; write NAME=VALUE"),
        ("class", "'' is no whole number"),
        ("class=ten", "'ten' is no whole number"),
        ("class=1.5", r"'1\.5' is no whole number"),
    ],
)
def test_a_wrong_one_is_named(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        with_nulls(source(Labelled(), CLASS), [text])
