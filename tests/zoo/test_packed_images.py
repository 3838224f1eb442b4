"""Lossless packing of images: equal after a round trip, smaller than the pixels, and split into parts."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from lab import train
from zoo.members import FOLDER
from zoo.packed_images import pack, read_parts, unpack, write_parts


def smooth(count: int, seed: int = 0) -> np.ndarray:
    """Images [count, 3, 32, 32] of random waves, with a little noise."""
    draw = np.random.default_rng(seed)
    phase = draw.uniform(0, 6, (count, 3, 1, 1)) + np.linspace(0, 3, 32)[:, None] + np.linspace(0, 2, 32)
    return np.uint8(127 + 100 * np.sin(phase) + draw.uniform(-1, 1, phase.shape))


@pytest.mark.parametrize("images", [smooth(5), np.random.default_rng(1).integers(0, 256, (4, 3, 7, 5), np.uint8)])
def test_images_are_equal_after_a_round_trip(images):
    assert np.array_equal(unpack(pack(images), *images.shape[2:]), images)


def test_smooth_images_take_less_than_their_pixels():
    images = smooth(50)
    assert len(pack(images)) < 0.6 * images.nbytes


def test_parts_are_read_in_order(tmp_path):
    images, labels = smooth(7), np.arange(7, dtype=np.uint8)
    files = write_parts(images, labels, tmp_path, "train", 3)
    assert [file.name for file in files] == ["train.part1.npz", "train.part2.npz", "train.part3.npz"]
    read_images, read_labels = read_parts(tmp_path, "train")
    assert np.array_equal(read_images, images) and read_labels.tolist() == labels.tolist()


def test_a_missing_part_is_named(tmp_path):
    files = write_parts(smooth(4), np.zeros(4, np.uint8), tmp_path, "train", 2)
    files[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.part2\.npz"):
        read_parts(tmp_path, "train")


def test_a_recipe_of_cifar10_reads_them(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    recipe = train.recipe_of("zoo/cifar10_dit")
    write_parts(smooth(4), np.array([3, 1, 0, 9], np.uint8), tmp_path, "train", 2)
    batch = recipe.DATA.open(tmp_path, "train")(8, torch.Generator().manual_seed(0))
    assert batch.x0.shape == (8, 3, 32, 32)
    assert set(batch.conditions[0].tolist()) <= {3, 1, 0, 9, recipe.pictures.NULL}


def test_a_recipe_is_exported_without_other_folders(tmp_path):
    """`fewstep export FILE:make` finds the modules of the file's folder, and no others."""
    zoo = FOLDER
    code = f"import sys; sys.path[:] = [{str(zoo)!r}, *sys.path[1:]]; import dit_flow; print(dit_flow.SPEC.name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "dit_flow\n", done.stderr
