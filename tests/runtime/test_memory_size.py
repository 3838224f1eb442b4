"""Sizes of memory as text."""

import pytest

from fewstep.plans.errors import UserError
from fewstep.runtime.memory_size import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2 * 10**9), ("1.5 GiB", 3 * 2**29), ("800mb", 800 * 10**6), ("64KiB", 2**16)]
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["2", "GB", "two GB", "-1GB", "0MB", "nanGB", "infGB", "1e99GB", "2GB2"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not a size; write a number with its unit, as 2GB or 800MB"):
        parse_bytes(text)


def test_a_size_is_shown_in_megabytes_or_gigabytes() -> None:
    assert (format_bytes(123_456_789), format_bytes(1_234_567_890)) == ("123 MB", "1.23 GB")
