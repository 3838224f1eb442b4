"""`fewstep run --size`: pictures of the sizes that were asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tokenizers")
from fewstep.cli.run.sampling import run
from tests.cli.test_run import options_of_size, options_of_tiles
from tests.free_size_bundle import free
from tests.refusals import refuses
from tests.runtime.text_bundle import with_free_autoencoder


def test_a_picture_has_the_size_that_was_asked_for(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = with_free_autoencoder(free(tiny_bundle))
    asked = options_of_size(tmp_path, bundle, 6, "height=6", "width=8")
    shown = replace(asked, output=tmp_path / "x.png", samples=1, scale=1)
    latents, images = run(replace(asked, samples=1)).x, run(shown).x
    np.testing.assert_allclose(images[:, 1, ::2, 1::2], 2 * latents[:, 0], rtol=1e-5)
    with Image.open(shown.output) as picture:
        assert picture.size == (16, 12)
    again = replace(shown, image=shown.output, known=shown.output, strength=0.5, output=tmp_path / "y.png")
    assert run(again).x.shape == (1, 3, 12, 16)


def test_latents_of_free_sizes_are_decoded_in_the_largest_windows(tiny_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "picture.npy", np.zeros((1, 40, 4), np.float32))
    bundle = with_free_autoencoder(free(tiny_bundle))
    asked = options_of_tiles(tmp_path, bundle, "height=20", tiles="4:2")
    asked = replace(asked, condition=(*asked.condition, f"picture=@{tmp_path}/picture.npy"))
    latents, images = run(asked).x, run(replace(asked, output=tmp_path / "x.png")).x
    np.testing.assert_allclose(images[:, 1, ::2, 1::2], 2 * latents[:, 0], rtol=1e-5)
    with refuses(names=("encoder", "height 2 to 12", "[1, 20, 4]"), fix="leave --size out"):
        run(replace(asked, image=tmp_path / "x.png", strength=0.5))


def test_a_size_in_pixels_is_named_in_latents(tiny_bundle: Path, tmp_path: Path) -> None:
    """The decoder returns two pixels for each latent. Of 26 pixels no size is in the range of 2 to 12."""
    bundle = with_free_autoencoder(free(tiny_bundle))
    with refuses("height 20 is outside its range", "--size counts latents: of 20 pixels it is 10; give height 2 to 12"):
        run(options_of_tiles(tmp_path, bundle, "height=20", tiles=None))
    with refuses("height 26 is outside its range", "give height 2 to 12 in steps of 2, or sample it in windows"):
        run(options_of_tiles(tmp_path, bundle, "height=26", tiles=None))


def test_records_of_a_whole_sample_are_cut_into_windows(tiny_bundle: Path, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).uniform(-1, 1, (1, 40, 4)).astype(np.float32)
    np.save(tmp_path / "picture.npy", picture)
    np.savez(tmp_path / "picture.npz", picture=picture[None])
    asked = replace(options_of_tiles(tmp_path, free(tiny_bundle), "height=20", tiles="4:2"), samples=1)
    by_name = replace(asked, condition=(*asked.condition, f"picture=@{tmp_path}/picture.npy"))
    recorded = replace(asked, conditions=tmp_path / "picture.npz")
    np.testing.assert_array_equal(run(recorded).x, run(by_name).x)
    with refuses(names=("picture.npz", "height 20 is outside its range"), fix="--size height=20 --tiles"):
        run(replace(recorded, size=(), tiles=None))
