"""The other networks of a folder in a bundle."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep.export.companions.autoencoder import AutoencoderSource
from fewstep.export.companions.companion import Companion, add_companion
from fewstep.export.companions.networks import add_autoencoder, add_encoder, add_with_sizes
from fewstep.graph.files.commit import open_for_update
from fewstep.plans.errors import UserError
from fewstep.plans.schedule import ScheduleSpec
from fewstep.runtime.bundle.manifest import Description, Size, TensorEntry

IMAGE, X = TensorEntry("image", "float32", ("batch", 3, 8, 8)), TensorEntry("x", "float32", ("batch", 4, 8, 8))

SIZES = (Size("height", 1, 4, 12, 4),)
FREE = Description("latents", (4, 8, 8), (), "v", ScheduleSpec("cosine"), sizes=SIZES)


def test_an_encoder_that_fails_in_torch_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The encoder of a Wan autoencoder whose decoder returns 12 channels, which are patches of pixels."""
    feeds = {"image": np.zeros((1, 3, 8, 8), np.float32)}
    encoder = Companion("encoder", lambda: nn.Conv2d(12, 4, 1), (IMAGE,), (X,), lambda batch: feeds)
    with open_for_update(tmp_path / "bundle", must_exist=False) as writer:
        assert add_encoder(encoder, partial(add_companion, writer)) is None
    assert "takes no --image: encoder fails in torch with image [1, 3, 8, 8]" in caplog.text


class OfOneSize(nn.Module):
    """A decoder with a table of the positions of one size."""

    def forward(self, *latent: Tensor) -> tuple[Tensor]:
        return (latent[0][:, :3] + torch.ones(8, 8),)


def test_a_decoder_of_one_size_keeps_it_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def decoder(shape: tuple[int, ...]) -> Companion:
        latent = TensorEntry("latent", "latent", ("batch", *shape))
        image = TensorEntry("image", "image", ("batch", 3, *shape[1:]))
        feeds = {"latent": np.ones((2, *shape), np.float32)}
        return Companion("decoder", OfOneSize, (latent,), (image,), lambda batch: feeds, (2,), at=decoder)

    with open_for_update(tmp_path / "bundle", must_exist=False) as writer:
        add = partial(add_with_sizes, partial(add_companion, writer), FREE)
        described = add_autoencoder(AutoencoderSource(decoder((4, 8, 8)), None, ()), add)
    assert described is not None and described.decoder.inputs[0].shape == ("batch", 4, 8, 8)
    assert (
        "the decoder takes latents of one size, [4, 8, 8]: decoder fails in torch with latent [2, 4, 4" in caplog.text
    )


class ByItsValues(nn.Module):
    """A pipeline whose output depends on a comparison, which a trace cannot follow."""

    def forward(self, latent: Tensor) -> tuple[Tensor]:
        return (2 * latent if bool(latent.max() > 0) else latent,)


def test_a_decoder_that_cannot_be_traced_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    latent, sound = TensorEntry("latent", "latent", (1, 2, 8)), TensorEntry("sound", "sound", (1, 2, 8))
    feeds = {"latent": np.zeros((1, 2, 8), np.float32)}
    decoder = Companion("decoder", ByItsValues, (latent,), (sound,), lambda batch: feeds, (1,))
    with open_for_update(tmp_path / "bundle", must_exist=False) as writer:
        assert add_autoencoder(AutoencoderSource(decoder, None, ()), partial(add_companion, writer)) is None
    assert "the bundle returns x, since the end of its pipeline's call cannot be exported" in caplog.text


def test_a_decoder_whose_values_are_not_finite_is_refused(tmp_path: Path) -> None:
    """Its weights are damaged, unlike code that cannot be traced."""
    latent, sound = TensorEntry("latent", "latent", (1, 2, 8)), TensorEntry("sound", "sound", (1, 2, 8))
    feeds = {"latent": np.zeros((1, 2, 8), np.float32)}

    class Damaged(nn.Module):
        def forward(self, latent: Tensor) -> tuple[Tensor]:
            return (latent / latent,)

    decoder = Companion("decoder", Damaged, (latent,), (sound,), lambda batch: feeds, (1,))
    with open_for_update(tmp_path / "bundle", must_exist=False) as writer, pytest.raises(UserError, match="not finite"):
        add_autoencoder(AutoencoderSource(decoder, None, ()), partial(add_companion, writer))
