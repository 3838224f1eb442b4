"""benchmarks/whole/pipeline.py: a folder as it is published, with random weights."""

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from safetensors.torch import load_file, save_file

from benchmarks.whole.pipeline import write_published_names


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_weights_of_the_text_encoder_have_their_published_names(prefix: str, tmp_path: Path) -> None:
    file, weight = tmp_path / "model.safetensors", torch.arange(3.0)
    save_file({f"{prefix}final_layer_norm.weight": weight}, file)
    write_published_names(file)
    written = load_file(file)
    assert list(written) == ["text_model.final_layer_norm.weight"]
    assert torch.equal(written["text_model.final_layer_norm.weight"], weight)
