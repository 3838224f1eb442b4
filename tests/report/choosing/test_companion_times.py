"""The time of encoding and decoding in the limit of `choose --within`."""

from pathlib import Path

import pytest

from fewstep.report.choosing import choose as choosing
from fewstep.report.choosing.choose import choose
from tests.refusals import refuses
from tests.report.choosing.test_choose import calls as calls
from tests.report.choosing.test_choose import options


def test_a_time_counts_the_companions_of_each_sample(
    tiny_bundle: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take 3 ms for each of two samples, and the fastest deployment 2 ms."""
    monkeypatch.setattr(choosing, "time_companions", lambda *_: 3.0)
    chosen = choose(options(tiny_bundle, within="8.5ms", at_least="0dB", batch=2)).chosen
    assert chosen is not None and chosen.winner.milliseconds == 2.0
    assert chosen.asked == "within 8.5ms and at least 0dB, with 6 ms for encoding and decoding"
    with refuses("with 6 ms for encoding and decoding", "--within 8ms"):
        choose(options(tiny_bundle, within="7.5ms", at_least="0dB", batch=2))


def test_a_time_without_that_of_the_companions_is_said(
    tiny_bundle: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(choosing, "companion_graphs", lambda manifest: ("a decoder",))
    choose(options(tiny_bundle, within="1s"))
    assert "--within is the time of sampling alone" in caplog.text
