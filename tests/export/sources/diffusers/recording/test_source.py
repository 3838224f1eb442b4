"""What export says about a recorded network that is too large to run."""

import pytest

from fewstep.export.sources.diffusers.recording.settings import CallSettings
from fewstep.export.sources.diffusers.recording.source import warn_of_missing_comparison

PADDING = "label: it is not checked either whether the network ignores the padding of shorter texts"


def test_padding_that_is_not_checked_is_said(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_missing_comparison("label", "Pipe", CallSettings({}, texts=({"prompt": "a"},)))
    assert PADDING in caplog.messages


def test_a_pipeline_without_padding_has_no_such_warning(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_missing_comparison("label", "Pipe", CallSettings({}))
    assert caplog.messages == ["label: the network is too large to compare its samples with those of Pipe"]
