"""A Spec with one field of a wrong type is refused in one printable line that names the field, with a fix."""

from typing import Any

import msgspec
import pytest

from fewstep.export import ScheduleSpec, Spec
from fewstep.plans.errors import UserError

WRONG: list[Any] = [1.5, -3, True, "a\nb", b"\x00", [None], [["a"]], {"a": 1}, {"a\nb": "\x1b[31m"}, ("x", 1), object()]
FIELDS = {field.name: field.type for field in msgspec.structs.fields(Spec)}


def wrong_values(kind: Any) -> list[Any]:
    """The values of `WRONG` that are not of this type."""
    found = []
    for value in WRONG:
        try:
            msgspec.convert(msgspec.to_builtins(value), kind)
        except (msgspec.ValidationError, TypeError):
            found.append(value)
    return found


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_a_wrong_type_is_named(field: str) -> None:
    correct = {
        "name": "s",
        "x_shape": (1, 8, 8),
        "conditions": (),
        "prediction": "v",
        "schedule": ScheduleSpec("cosine"),
    }
    Spec(**correct)  # type: ignore[arg-type]
    wrong = wrong_values(FIELDS[field])
    assert len(wrong) >= 4
    for value in wrong:
        with pytest.raises(UserError) as refused:
            Spec(**correct | {field: value})  # type: ignore[arg-type]
        assert f"'{field}'" in refused.value.what and refused.value.fix
        assert str(refused.value).isprintable(), value
