"""Latents to images and back, on graphs that can be computed by hand."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tokenizers")
from fewstep.plans.errors import UserError
from fewstep.runtime.autoencoder import Autoencoder, load_autoencoder
from fewstep.runtime.bundle.manifest import AutoencoderEntry, Condition, GraphEntry, TensorEntry
from tests.free_size_bundle import free
from tests.runtime.text_bundle import IMAGE, SCALE, X_SHAPE, with_companions, with_free_autoencoder


@pytest.fixture
def autoencoder(tiny_bundle: Path) -> Autoencoder:
    return load_autoencoder(with_companions(tiny_bundle))


def test_decoding_and_encoding(autoencoder: Autoencoder) -> None:
    latents = np.random.default_rng(0).uniform(-0.5, 0.5, (3, *X_SHAPE)).astype(np.float32)
    images = autoencoder.decode(latents)
    assert images.shape == (3, *IMAGE) == (3, *autoencoder.image_shape) and images.dtype == np.float32
    np.testing.assert_allclose(images[:, 1, ::2, 1::2], latents[:, 0] / SCALE, rtol=1e-6)
    np.testing.assert_allclose(autoencoder.encode(images), latents, rtol=1e-6)


@pytest.mark.parametrize(
    ("latents", "says"),
    [
        (np.zeros((2, 1, 4)), r"latents have the shape \[2, 1, 4\]; give finite numbers \[N, 1, 4, 4\]"),
        (np.zeros((0, *X_SHAPE)), "latents have the shape"),
        (np.full((1, *X_SHAPE), 1e300), "not finite"),
        ("x", "not an array of numbers"),
    ],
)
def test_what_cannot_be_decoded_is_one_line(autoencoder: Autoencoder, latents: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        autoencoder.decode(latents)


def with_first_frame(autoencoder: Autoencoder) -> Autoencoder:
    """Return a decoder of videos of two frames: a condition [1, 4, 4], and the latents."""
    frame = TensorEntry("image", "condition", (1, *X_SHAPE))
    latent, video = TensorEntry("z", "latent", (1, *X_SHAPE)), TensorEntry("video", "video", (1, 2, *X_SHAPE))
    graph = GraphEntry("decoder.onnx", (latent, frame), (video,))
    described = AutoencoderEntry(graph, None)

    def decode(feeds: Any) -> Any:
        return {"video": np.stack([feeds["image"], feeds["z"]], axis=1)}

    return replace(autoencoder, described=described, decoder=decode)


def test_a_decoder_takes_a_condition_of_each_sample(autoencoder: Autoencoder) -> None:
    x, frame = np.full((2, *X_SHAPE), 0.5, np.float32), np.zeros((2, *X_SHAPE), np.float32)
    frame[1] = 0.25
    video = with_first_frame(autoencoder).decode(x, {"image": frame, "text": np.zeros(3)})
    assert video[:, :, 0, 0, 0].tolist() == [[0, 0.5], [0.25, 0.5]]


@pytest.mark.parametrize(
    ("shape", "says"), [(X_SHAPE, None), ((2,), "its decoder takes other tensors besides latents")]
)
def test_a_decoder_takes_conditions_of_the_denoiser_only(
    autoencoder: Autoencoder, shape: tuple[int, ...], says: str | None
) -> None:
    of: Any = SimpleNamespace(x_shape=X_SHAPE, sizes=(), conditions=(Condition("image", "image", shape, "float32"),))
    assert with_first_frame(autoencoder).described.problem(of) == says


@pytest.mark.parametrize("rows", [0, 1])
def test_a_missing_condition_of_a_decoder_is_one_line(autoencoder: Autoencoder, rows: int) -> None:
    says = "rows of the condition 'image' " + ("have the shape" if rows == 0 else "are given for 2 samples")
    with pytest.raises(UserError, match=says):
        with_first_frame(autoencoder).decode(np.zeros((2, *X_SHAPE)), {"image": np.zeros((rows, *X_SHAPE))})


@pytest.mark.parametrize("shape", [(2, 4), (4, 4), (12, 8)])
def test_latents_and_images_of_free_sizes(tiny_bundle: Path, shape: tuple[int, int]) -> None:
    autoencoder = load_autoencoder(with_free_autoencoder(free(tiny_bundle)))
    latents = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 1, *shape)).astype(np.float32)
    images = autoencoder.decode(latents)
    assert images.shape == (2, 3, 2 * shape[0], 2 * shape[1])
    np.testing.assert_allclose(images[:, 1, ::2, 1::2], latents[:, 0] / SCALE, rtol=1e-6)
    np.testing.assert_allclose(autoencoder.encode(images), latents, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 3, 4), (1, 14, 4), (2, 4, 4), (4, 4)])
def test_latents_outside_the_ranges_are_one_line_with_the_ranges(tiny_bundle: Path, shape: tuple[int, ...]) -> None:
    autoencoder = load_autoencoder(with_free_autoencoder(free(tiny_bundle)))
    says = r"latents have the shape .*; give finite numbers \[N, 1, height, width\] with height 2 to 12 in steps of 2"
    with pytest.raises(UserError, match=says):
        autoencoder.decode(np.zeros((1, *shape)))


def test_a_bundle_without_an_autoencoder_says_so(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match="has no autoencoder"):
        load_autoencoder(tiny_bundle)


def test_what_cannot_be_encoded_is_one_line(autoencoder: Autoencoder, tiny_bundle: Path) -> None:
    decoder = load_autoencoder(tiny_bundle, encoder=False)
    for asked, value, named in (
        (autoencoder, 255, "images: uint8 values up to 255, as in an image file"),
        (decoder, 0, "no image encoder is loaded"),
    ):
        with pytest.raises(UserError, match=named):
            asked.encode(np.full((1, *IMAGE), value, np.uint8))
