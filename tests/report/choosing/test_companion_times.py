"""The time of encoding and decoding in the limit of `choose --within`."""

from pathlib import Path
from typing import NoReturn

import pytest

from fewstep.plans.errors import UserError
from fewstep.report.choosing import choose as choosing
from fewstep.report.choosing import companion_times
from fewstep.report.choosing.choose import choose
from fewstep.report.choosing.companion_times import companion_timer
from fewstep.runtime.bundle.reading import open_bundle
from tests.calibration.latent_bundle import write_latent_bundle
from tests.refusals import refuses
from tests.report.choosing.test_choose import options


def test_a_time_counts_the_companions_of_each_sample(
    tiny_bundle: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take 3 ms for each of two samples, and the fastest deployment 2 ms."""
    monkeypatch.setattr(companion_times, "time_companions", lambda *_: 3.0)
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


def test_graphs_that_do_not_run_here_are_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for each body that shares them."""
    bundle, started = open_bundle(write_latent_bundle(tmp_path / "bundle")), list[str]()

    def refuse(name: str, _: object) -> NoReturn:
        started.append(name)
        raise UserError("no", "fix")

    monkeypatch.setattr(companion_times, "TimedProcess", refuse)
    time = companion_timer(bundle, 1)
    assert [time(body) for body in ("float32", "int8-cpu-x86", "int8-openvino")] == [None] * 3
    assert len(started) == 1
