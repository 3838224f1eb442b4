"""The sampler of the tiny bundle."""

from pathlib import Path

import pytest

from fewstep.runtime import Sampler, load


@pytest.fixture
def sampler(tiny_bundle: Path) -> Sampler:
    return load(tiny_bundle)
