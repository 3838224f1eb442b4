"""A folder of weights that tests copy and change."""

from pathlib import Path

import pytest

from tests.families.tiny import UNET, randomize


@pytest.fixture(scope="package")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a UNet2DModel, with its weights in one file. Tests must not change it."""
    diffusers = pytest.importorskip("diffusers")
    blocks = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}
    home = tmp_path_factory.mktemp("weights") / "unet"
    randomize(diffusers.UNet2DModel(in_channels=3, out_channels=3, **UNET, **blocks)).save_pretrained(home)
    return home
