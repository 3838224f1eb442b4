"""The other networks of a folder in a bundle."""

import json
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from fewstep.export.companions import Companion
from fewstep.export.sources.diffusers.files import Folder
from fewstep.export.sources.diffusers.pipeline import ZEROS_FOR_NONE, add_encoder, has_zeros_for_none
from fewstep.graph.files.commit import open_for_update
from fewstep.runtime.bundle.manifest import TensorEntry

IMAGE, X = TensorEntry("image", "float32", ("batch", 3, 8, 8)), TensorEntry("x", "float32", ("batch", 4, 8, 8))


def test_an_encoder_that_fails_in_torch_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The encoder of a Wan autoencoder whose decoder returns 12 channels, which are patches of pixels."""
    feeds = {"image": np.zeros((1, 3, 8, 8), np.float32)}
    encoder = Companion("encoder", lambda: nn.Conv2d(12, 4, 1), (IMAGE,), (X,), lambda batch: feeds)
    with open_for_update(tmp_path / "bundle", must_exist=False) as writer:
        assert add_encoder(writer, encoder) is None
    assert "takes no --image: encoder fails in torch with image [1, 3, 8, 8]" in caplog.text


@pytest.mark.parametrize(
    ("pipeline", "fields", "zeros"),
    [
        ("StableDiffusionXLPipeline", {}, True),  # the default of the class
        ("StableDiffusionXLPipeline", {ZEROS_FOR_NONE: False}, False),
        ("KolorsPipeline", {}, False),
        ("StableDiffusionPipeline", {ZEROS_FOR_NONE: True}, False),  # it has no such argument
    ],
)
def test_zeros_for_no_text_are_those_of_the_pipeline(
    pipeline: str, fields: dict[str, bool], zeros: bool, tmp_path: Path
) -> None:
    pytest.importorskip("diffusers")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **fields}))
    assert has_zeros_for_none(Folder(tmp_path)) is zeros
