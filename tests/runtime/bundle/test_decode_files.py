"""A JSON file of a bundle that fewstep did not write is refused by its name and field."""

from pathlib import Path

import pytest

from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle
from tests.cli.conftest import Refusal, fewstep, refusal  # noqa: F401 - fixtures
from tests.refusals import refuses


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "Input data was truncated"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"comparisons": [{"stage": "exported", "relative": 0, "time": 1}]}', "missing required field `batch`"),
        (b'{"comparisons": [{"stage": 3, "relative": 0, "time": 1, "batch": 1}]}', "Expected `str`, got `int`"),
    ],
)
def test_inspect_names_a_verification_that_it_cannot_read(
    tiny_bundle: Path,
    content: bytes,
    said: str,
    refusal: Refusal,  # noqa: F811
) -> None:
    change_bundle(tiny_bundle, {"verification.json": content}, verification="verification.json")
    assert f"{tiny_bundle / 'verification.json'} cannot be read: " in (line := refusal("inspect", tiny_bundle))
    assert said in line


def test_a_file_is_decoded_to_its_type(tiny_bundle: Path) -> None:
    change_bundle(tiny_bundle, {"scheduler.json": b'{"a": [1, 2]}'}, scheduler="scheduler.json")
    bundle = open_bundle(tiny_bundle)
    assert bundle.decode("scheduler.json", dict[str, list[int]]) == {"a": [1, 2]}
    with refuses(("scheduler.json", "Expected `str`")):
        bundle.decode("scheduler.json", dict[str, str])
