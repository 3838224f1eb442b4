"""docs/examples/text_to_image.py, on a text encoder and an autoencoder that can be computed by hand."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tokenizers")
from tests.examples.conftest import Example
from tests.runtime.text_bundle import IMAGE, with_companions


def test_prompts_become_pictures(tiny_bundle: Path, tmp_path: Path, example: Example) -> None:
    bundle = with_companions(tiny_bundle)
    _, printed = example("text_to_image.py", bundle, tmp_path / "out.npy", "a cat", "a dog")
    assert printed == "2 samples [3, 8, 8], from latents [1, 4, 4]\n"
    images = np.load(tmp_path / "out.npy")
    assert images.shape == (2, *IMAGE) and np.abs(images).max() <= 1
