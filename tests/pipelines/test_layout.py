"""How latents are packed into the tokens that a scheduler steps."""

from pathlib import Path
from typing import Any, NoReturn

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.layout import find_layout
from fewstep.pipelines.recording.components import build_pipeline
from fewstep.pipelines.recording.usual_call import record_usual_call
from tests.recorded_pipelines import CALLS
from tests.recorded_pipelines.images import flux2_klein


def test_tokens_are_found_without_reading_the_weights_of_the_autoencoder(tmp_path: Path) -> None:
    def read(*_: Any) -> NoReturn:
        raise AssertionError("weights are read")

    built = build_pipeline(Folder(flux2_klein(tmp_path / "a")))
    packing = find_layout(read, built, *record_usual_call(built, CALLS["flux2_klein"])).packing
    assert packing is not None and packing.block == (2, 2)
