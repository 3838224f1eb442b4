"""Fakes times in all tests of precision maps."""

import pytest

from tests.calibration.precision.faked_times import Clock


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    made.install(monkeypatch)
    return made
