"""The network of a LoRA file, and the name of a T5 in it: the third encoder, wherever a pipeline has it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fewstep.runtime.lora.file import Lora, read_lora
from fewstep.runtime.lora.keys import T5, Component
from fewstep.runtime.lora.networks import describe_targets, loras_of, name_t5
from tests.refusals import refuses

TWO = ("transformer_2", "transformer")  # as in the folder of Wan 2.2: the denoiser is the first
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


@pytest.mark.parametrize("prefix", ["transformer.", "base_model.model.transformer."])
def test_a_prefix_that_diffusers_writes_for_any_network_names_none(tmp_path: Path, prefix: str) -> None:
    given = lora(tmp_path, f"{prefix}a", f"{prefix}b")
    chosen = "give a.safetensors@transformer for the noisiest steps or a.safetensors@transformer_2 for those after them"
    with refuses(("a.safetensors", "'transformer', which diffusers writes for any of transformer_2, tr"), chosen):
        loras_of("transformer", TWO, [given])


def test_text_encoders_of_a_file_for_two_networks_are_described_once(tmp_path: Path) -> None:
    given = lora(tmp_path, "transformer.a", "text_encoder.b")
    lines = describe_targets(TWO, [replace(given, network=name) for name in TWO])
    assert ["text_encoder" in line for line in lines] == [True, False]


@pytest.mark.parametrize(
    ("layers", "networks", "line"),
    [
        (("transformer.a", "transformer_2.a", "transformer_2.b"), TWO, "2 layers of transformer_2 and 1 layer of tr"),
        (("transformer_2.a",), TWO, "1 layer of transformer_2"),
        (("transformer.a",), ("transformer",), "1 layer of transformer"),
        (
            ("transformer.a", "text_encoder.b", "text_encoder.c"),
            ("transformer",),
            "1 layer of transformer and 2 layers of text_encoder",
        ),
    ],
)
def test_a_file_is_described_with_the_networks_that_it_changes(
    tmp_path: Path, layers: tuple[str, ...], networks: tuple[str, ...], line: str
) -> None:
    assert describe_targets(networks, [lora(tmp_path, *layers)])[0].startswith(f"a.safetensors: {line}")
