"""What the text encoders of all pipelines share."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fewstep.export.tracing.weights.stored_halves import to_float32
from fewstep.graph import widened
from fewstep.pipelines.companions.text import find_t5, merge_loras
from fewstep.runtime.lora.file import read_lora


def test_a_t5_is_found_by_its_model_type() -> None:
    assert find_t5({"text_encoder": "clip_text_model", "text_encoder_2": "umt5"}) == "text_encoder_2"
    assert find_t5({"text_encoder": "t5", "text_encoder_2": "t5"}) is None and find_t5({"text_encoder": None}) is None


def test_a_lora_is_merged_into_an_encoder_whose_weights_stay_in_half_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(widened, "LEAST_BYTES", 1)
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Linear(8, 8, bias=False)).bfloat16()
    before, down, up = encoder[0].weight.detach().float(), torch.randn(2, 8), torch.randn(8, 2)
    factors = {"text_encoder.0.lora_A.weight": down, "text_encoder.0.lora_B.weight": up}
    save_file(factors, tmp_path / "lora.safetensors")
    merge_loras(to_float32(encoder), [read_lora(str(tmp_path / "lora.safetensors"))], "text_encoder")
    torch.testing.assert_close(encoder[0].weight.detach(), before + up @ down)
