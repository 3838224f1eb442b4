"""A folder of weights that tests copy and change, and folders of small pipelines, which tests share."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests import recorded_pipelines
from tests.families.tiny import UNET, randomize


@pytest.fixture(scope="package")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a UNet2DModel, with its weights in one file. Tests must not change it."""
    diffusers = pytest.importorskip("diffusers")
    blocks = {"down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")}
    home = tmp_path_factory.mktemp("weights") / "unet"
    randomize(diffusers.UNet2DModel(in_channels=3, out_channels=3, **UNET, **blocks)).save_pretrained(home)
    return home


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the function that writes a pipeline of `recorded_pipelines` once. Tests must not change its folder."""

    @cache
    def write(name: str) -> Path:
        folder: Path = getattr(recorded_pipelines, name)(tmp_path_factory.mktemp("pipelines") / name)
        return folder

    return write
