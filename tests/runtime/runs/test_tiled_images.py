"""The image of large latents, decoded in windows."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("tokenizers")
from fewstep.plans.errors import UserError
from fewstep.runtime.autoencoder import Autoencoder, load_autoencoder
from fewstep.runtime.runs import Tiles, decode_tiles
from tests.refusals import refuses
from tests.runtime.runs.test_tiles import blur
from tests.runtime.text_bundle import IMAGE, X_SHAPE, with_companions

WHOLE = (1, 9, 7)


def image(latents: np.ndarray, reach: int) -> np.ndarray:
    """Return three channels, twice as large, of blurred latents: linear, with a reach of `reach` latents."""
    return np.repeat(blur(latents, reach), 3, axis=1).repeat(2, axis=2).repeat(2, axis=3).astype(np.float32)


def blurring(bundle: Path, reach: int) -> Autoencoder:
    autoencoder = load_autoencoder(with_companions(bundle), encoder=False)

    def decoder(feeds):  # type: ignore[no-untyped-def]
        assert feeds["latent"].shape == (1, *X_SHAPE)
        return {"image": image(feeds["latent"], reach)}

    return replace(autoencoder, decoder=decoder)  # type: ignore[arg-type]


@pytest.fixture
def latents() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, *WHOLE)).astype(np.float32)


@pytest.mark.parametrize(
    ("reach", "tiles"), [(0, Tiles(2)), (0, Tiles(0)), (1, Tiles(2, 0)), (1, Tiles(3, 1))], ids=str
)
def test_windows_are_the_whole_where_the_decoder_looks_no_farther(
    tiny_bundle: Path, latents: np.ndarray, reach: int, tiles: Tiles
) -> None:
    made = decode_tiles(blurring(tiny_bundle, reach), latents, tiles)
    np.testing.assert_allclose(made, image(latents, reach), atol=1e-6)


def test_a_seam_is_as_wide_as_the_decoder_looks(tiny_bundle: Path, latents: np.ndarray) -> None:
    """Windows of 4 start at rows 0, 4 and 5: the difference is within one latent of their inner ends."""
    made = decode_tiles(blurring(tiny_bundle, 1), latents, Tiles(0))
    rows = np.abs(made - image(latents, 1)).max(axis=(0, 1))[:, :4].max(axis=1)[::2]
    assert (rows > 0.01).tolist() == [False, False, False, True, True, True, False, True, False]


def test_windows_fade_over_all_pixels_of_their_overlap(tiny_bundle: Path) -> None:
    """Two windows of 4 rows share 2 of them, 4 pixels; the upper one is black, the lower one white."""
    latents = np.zeros((1, 1, 6, 4), np.float32)
    latents[:, :, -1] = 1

    def decoder(feeds):  # type: ignore[no-untyped-def]
        return {"image": np.full((1, 3, 8, 8), feeds["latent"].max(), np.float32)}

    made = decode_tiles(replace(blurring(tiny_bundle, 0), decoder=decoder), latents, Tiles(2, 2))  # type: ignore[arg-type]
    expected = [0, 0, 0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1, 1, 1]
    np.testing.assert_allclose(made, np.broadcast_to(np.reshape(expected, (-1, 1)), (1, 3, 12, 8)), atol=1e-6)


def enlarging(bundle: Path, height: int, width: int) -> Autoencoder:
    """Each latent becomes a patch of one number in three channels, in images of this size for latents of 4."""
    autoencoder = load_autoencoder(with_companions(bundle), encoder=False)
    described = autoencoder.described
    (made,) = described.decoder.outputs
    image = msgspec.structs.replace(made, shape=("batch", 3, height, width))
    graph = msgspec.structs.replace(described.decoder, outputs=(image,))

    def decoder(feeds):  # type: ignore[no-untyped-def]
        rows = np.repeat(feeds["latent"], 3, axis=1)
        return {"image": rows.repeat(height // 4, axis=2).repeat(width // 4, axis=3)}

    return replace(autoencoder, described=msgspec.structs.replace(described, decoder=graph), decoder=decoder)  # type: ignore[arg-type]


@pytest.mark.parametrize(("height", "width"), [(8, 16), (16, 4)])
def test_height_and_width_have_scales_of_their_own(
    tiny_bundle: Path, latents: np.ndarray, height: int, width: int
) -> None:
    """As for a spectrogram with more columns per latent than rows."""
    made = decode_tiles(enlarging(tiny_bundle, height, width), latents, Tiles(2))
    expected = latents.repeat(3, axis=1).repeat(height // 4, axis=2).repeat(width // 4, axis=3)
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_part_of_a_pixel_a_latent_is_refused(tiny_bundle: Path, latents: np.ndarray) -> None:
    with refuses(("image of [8, 9]", "latents of [4, 4]")):
        decode_tiles(enlarging(tiny_bundle, 8, 9), latents, Tiles(2))


def test_latents_of_the_decoder_s_size_are_decoded_whole(tiny_bundle: Path, latents: np.ndarray) -> None:
    autoencoder = load_autoencoder(with_companions(tiny_bundle), encoder=False)
    small = latents[:, :, :4, :4]
    np.testing.assert_array_equal(decode_tiles(autoencoder, small, Tiles(2)), autoencoder.decode(small))
    assert decode_tiles(autoencoder, latents, Tiles(2)).shape == (2, IMAGE[0], 18, 14)


@pytest.mark.parametrize(
    ("latents", "said"),
    [
        (np.zeros((1, 1, 3, 9)), r"do not fit a decoder of \[1, 4, 4\] .* overlap by 2"),
        (np.zeros((1, 2, 9, 7)), r"do not fit a decoder of \[1, 4, 4\] .* overlap by 2"),
        (np.zeros((1, 9, 7)), r"do not fit a decoder of \[1, 4, 4\] .* overlap by 2"),
        ([[1], [2, 3]], "latents are not an array of numbers"),
        (np.zeros((0, 1, 9, 7)), r"latents have the shape \[0, 1, 9, 7\]"),
        (np.float32(1), r"latents have the shape \[\]"),
        (np.full((1, 1, 9, 7), 200, np.uint8), "latents: uint8 values up to 200"),
        (np.full((1, 1, 9, 7), 1e300), "latents hold a number that is not finite"),
    ],
    ids=["low", "two-channels", "no-channels", "ragged", "none", "a-number", "bytes", "infinite"],
)
def test_what_is_no_batch_of_latents_is_one_line(tiny_bundle: Path, latents: object, said: str) -> None:
    autoencoder = load_autoencoder(with_companions(tiny_bundle), encoder=False)
    with pytest.raises(UserError, match=said):
        decode_tiles(autoencoder, latents, Tiles(2))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="overlap by 4"):
        decode_tiles(autoencoder, np.zeros((1, 1, 9, 7)), Tiles(4))
