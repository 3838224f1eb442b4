"""The name of a T5 in LoRA files: the third encoder, wherever a pipeline has it."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fewstep.runtime.lora.file import Lora, read_lora
from fewstep.runtime.lora.keys import T5, Component
from fewstep.runtime.lora.networks import name_t5
from tests.refusals import refuses

KOHYA, COMFY = "lora_te3_encoder_block_0", "text_encoders.t5xxl.transformer.encoder.block.0"


def lora(folder: Path, *layers: str) -> Lora:
    tensors = {
        f"{layer}.lora_{side}.weight": np.ones((2, 2), np.float32) for layer in layers for side in ("up", "down")
    }
    save_file(tensors, folder / "a.safetensors")
    return read_lora(str(folder / "a.safetensors"))


@pytest.mark.parametrize("layer", [KOHYA, COMFY])
@pytest.mark.parametrize("encoder", ["text_encoder", "text_encoder_2", T5])
def test_updates_of_a_t5_are_those_of_its_encoder(tmp_path: Path, layer: str, encoder: Component) -> None:
    given = lora(tmp_path, layer, "lora_unet_x")
    named = name_t5(given, encoder)
    assert len(named.layers(encoder)) == 1 and named.layers("denoiser") == ("lora_unet_x",)
    assert name_t5(given, None) is given and given.layers(T5)


def test_a_t5_under_two_names_is_refused(tmp_path: Path) -> None:
    with refuses(("a.safetensors", "text_encoder_2 and of text_encoder_3")):
        name_t5(lora(tmp_path, KOHYA, "lora_te2_encoder_block_0"), "text_encoder_2")


def test_comfyui_names_text_encoders_by_their_networks(tmp_path: Path) -> None:
    layers = [f"text_encoders.{name}.transformer.text_model.encoder.layers.0.mlp.fc1" for name in ("clip_l", "clip_g")]
    assert {component for component, _ in lora(tmp_path, *layers).updates} == {"text_encoder", "text_encoder_2"}
