"""docs/examples/text_to_image.py, on a text encoder and an autoencoder that can be computed by hand."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tokenizers")
from tests.runtime.text_bundle import IMAGE, with_companions

EXAMPLE = Path(__file__).parents[2] / "docs/examples" / "text_to_image.py"


def test_prompts_become_pictures(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = with_companions(tiny_bundle)
    monkeypatch.setattr(sys, "argv", [EXAMPLE.name, str(bundle), str(tmp_path / "out.npy"), "a cat", "a dog"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert capsys.readouterr().out == "2 pictures of 8 x 8 pixels, from latents [1, 4, 4]\n"
    images = np.load(tmp_path / "out.npy")
    assert images.shape == (2, *IMAGE) and np.abs(images).max() <= 1
