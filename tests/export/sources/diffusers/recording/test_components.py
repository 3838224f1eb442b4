"""The entries of a pipeline's model_index.json: components, and settings."""

import pytest

pytest.importorskip("diffusers")
from fewstep.export.sources.diffusers.recording.components import _is_component


@pytest.mark.parametrize("entry", [["diffusers", "AutoencoderKL"], [None, None]])
def test_a_library_and_a_class_are_a_component(entry: object) -> None:
    assert _is_component(entry)


@pytest.mark.parametrize("entry", [[2, 5], [2, 5, 8], 0.9, None, "text", []])
def test_numbers_in_a_list_are_a_setting(entry: object) -> None:
    assert not _is_component(entry)
