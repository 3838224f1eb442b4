from pathlib import Path
from types import SimpleNamespace

import pytest

from fewstep.graph import resource_needs as module
from fewstep.graph.files.commit import open_for_update
from fewstep.graph.resource_needs import Needs, check_memory, check_needs, format_duration
from fewstep.plans.errors import UserError
from tests.calibration.test_calibrate import denoiser, write_bundle

GB = 10**9


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "this_space", lambda *_: SimpleNamespace(memory_free=8 * GB, disk_free=3 * GB))
    monkeypatch.setattr(module, "resident_bytes", lambda: 0)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=3 * GB))
    return write_bundle(tmp_path / "bundle", denoiser())


def test_needs_are_said_next_to_what_is_free(bundle: Path) -> None:
    said = Needs(5 * GB + 10**8, 20_500_000, 4).describe(bundle)
    assert said == "needs about 5.1 GB of memory (8.0 GB free), and 20.5 MB on disk (3.0 GB free) for 4 files"


def test_a_disk_that_is_too_full_is_an_error_before_the_work(bundle: Path) -> None:
    with (
        open_for_update(bundle, must_exist=True) as writer,
        pytest.raises(UserError, match="needs .* more, and its disk has"),
    ):
        check_needs(Needs(GB, 4 * GB, 3), writer)


def test_memory_that_is_short_is_a_warning(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_for_update(bundle, must_exist=True) as writer:
        check_needs(Needs(7 * GB, GB, 3), writer)
        assert caplog.messages == []
        check_needs(Needs(9 * GB, GB, 3), writer)
    assert caplog.messages == ["this takes about 9.0 GB of memory, and 8.0 GB are free"]


def test_what_the_process_holds_already_is_its_own(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "resident_bytes", lambda: 2 * GB)
    check_memory(Needs(9 * GB, GB, 3), bundle)
    assert caplog.messages == [] and "(10.0 GB free)" in Needs(9 * GB, GB, 3).describe(bundle)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "a second"),
        (3.4, "3 seconds"),
        (89.0, "89 seconds"),
        (90.0, "2 minutes"),
        (3600.0, "60 minutes"),
        (9000.0, "2.5 hours"),
    ],
)
def test_a_duration_is_an_estimate_in_words(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said
