"""benchmarks/large/picture.py makes the picture of `fewstep run`, part by part."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers", reason="diffusers is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from benchmarks.large import picture
from fewstep.evaluation.drawing.pictures import read


@pytest.mark.large
def test_a_picture_is_made_and_its_parts_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With small networks: latents of 8 x 8 are 64 x 64 pixels."""
    given = ["--channels", "32", "--latent", "8", "--plan", "ddim:2", "--work", str(tmp_path)]
    assert picture.main(given) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == ["export", "calibrate", "run", "text", "denoiser", "autoencoder"]
    assert all(float(row[-1]) > 0.05 for row in rows)  # GB at the peak
    assert np.abs(read(tmp_path / "parts.png", (3, 64, 64)) - read(tmp_path / "picture.png", (3, 64, 64))).max() == 0
    for guidance, done in (("7.5", "run"), ("2", "calibrate")):
        assert picture.main([*given, "--guidance", guidance]) == 0
        assert capsys.readouterr().out.splitlines()[1].split()[0] == done
