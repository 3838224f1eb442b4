"""The other networks of a pipeline: a module that fails is one clear line."""

from pathlib import Path

import numpy as np
from torch import nn

from fewstep.export.companions.companion import Companion, CompanionFailure, add_companion
from fewstep.graph.files.commit import open_for_update
from fewstep.runtime.bundle.manifest import TensorEntry
from tests.refusals import refuses


def test_an_encoder_that_fails_in_torch_is_refused_by_name(tmp_path: Path) -> None:
    """Its convolution takes 12 channels, as that of an autoencoder whose configuration contradicts itself."""
    image, x = TensorEntry("image", "float32", ("batch", 3, 8, 8)), TensorEntry("x", "float32", ("batch", 4, 8, 8))
    companion = Companion(
        "encoder",
        lambda: nn.Conv2d(12, 4, 1),
        (image,),
        (x,),
        lambda batch: {"image": np.zeros((batch, 3, 8, 8), np.float32)},
    )
    with (
        open_for_update(tmp_path / "bundle", must_exist=False) as writer,
        refuses(("encoder fails in torch with image [1, 3, 8, 8]", "to have 12 channels"), "belong together"),
    ):
        add_companion(writer, companion)


def test_a_loaded_module_that_its_check_refuses_is_not_added(tmp_path: Path) -> None:
    def check(module: nn.Module) -> None:
        assert not module.training
        raise CompanionFailure("its encoder depends on padding", "encode the texts")

    image, x = TensorEntry("image", "float32", ("batch", 3)), TensorEntry("x", "float32", ("batch", 3))
    companion = Companion("encoder", nn.Identity, (image,), (x,), lambda batch: {}, batches=(), check=check)
    with (
        open_for_update(tmp_path / "bundle", must_exist=False) as writer,
        refuses("its encoder depends on padding", "encode the texts"),
    ):
        add_companion(writer, companion)
