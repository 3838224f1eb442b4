"""Folders of small pipelines, which tests share."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests import recorded_pipelines


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the function that writes a pipeline of `recorded_pipelines` once. Tests must not change its folder."""

    @cache
    def write(name: str) -> Path:
        folder: Path = getattr(recorded_pipelines, name)(tmp_path_factory.mktemp("pipelines") / name)
        return folder

    return write
