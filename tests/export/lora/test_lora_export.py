"""LoRA files through export: their entries in a bundle, and networks besides the denoiser."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fewstep.export.changes import apply_changes
from fewstep.export.expert import Expert
from fewstep.export.experts import load_expert
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.load_source import load_source
from fewstep.export.lora.merge import merge
from fewstep.export.lora.slots import SlotRequest
from fewstep.export.sources.onnx_file import OnnxSource
from fewstep.export.sources.torch_module import TorchSource
from fewstep.graph.files.io import load
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.lora.file import read_lora
from tests.export import denoisers
from tests.export.denoisers import Tiny, source
from tests.export.lora.lora_files import Wrapped, updates, write
from tests.refusals import refuses


@pytest.mark.slow
def test_a_bundle_names_what_was_merged_and_runs_it(tmp_path: Path) -> None:
    tensors = {"conv.lora_A.weight": torch.ones(1, 2, 3, 3), "conv.lora_B.weight": torch.full((2, 1, 1, 1), 0.5)}
    save_file(tensors, tmp_path / "a.safetensors")
    text, lora = f"{denoisers.__file__}:make", f"{tmp_path / 'a.safetensors'}:0.5"
    made = export(ExportOptions(text, tmp_path / "b", lora=(lora,)))  # verified against the merged module
    (adapter,) = open_bundle(tmp_path / "b").manifest.provenance.adapters
    assert (adapter.file, adapter.strength) == ("a.safetensors", 0.5)
    assert made.provenance.commands == ("fewstep export denoisers.py:make -o BUNDLE --lora a.safetensors:0.5",)
    assert str(tmp_path) not in (tmp_path / "b" / "manifest.json").read_text()
    weights = load(open_bundle(tmp_path / "b").graph(made.bodies["float32"].graph)).constants
    base = load_source(text)
    assert isinstance(base, TorchSource)
    convolution = base.module.get_submodule("conv").weight.detach().numpy()
    assert any(w.shape == convolution.shape and np.allclose(w, convolution + 0.25) for w in weights.values())


def test_the_hash_of_a_source_covers_file_and_strength(tmp_path: Path) -> None:
    given = source(Tiny())
    file = write(tmp_path / "a.safetensors", updates(given.module, ["conv"]))
    other = write(tmp_path / "b.safetensors", updates(given.module, ["conv"], 1))
    texts = (f"{file}", f"{file}:0.5", f"{other}")
    hashes = [apply_changes(source(Tiny()), [read_lora(text)]).sha256 for text in texts]
    assert len({given.sha256, *hashes}) == 4 and apply_changes(given, []) is given


def test_a_module_is_changed_once(tmp_path: Path) -> None:
    given = source(Tiny())
    lora = read_lora(str(write(tmp_path / "a.safetensors", updates(given.module, ["conv"]))))
    steered = replace(given, spec=msgspec.structs.replace(given.spec, heads=2, steers="x"))
    with refuses(("--lora-slots", "energy gradient")):  # which changes nothing
        apply_changes(steered, (), slots=SlotRequest(("conv",)))
    other = read_lora(str(write(tmp_path / "b.safetensors", updates(Wrapped(given.module), ["network.conv"]))))
    with pytest.raises(UserError, match="b.safetensors"):  # of another network: it changes nothing
        apply_changes(given, [other])
    apply_changes(given, [lora])
    with refuses("tiny", "create a new"):
        apply_changes(given, [lora])
    with refuses("tiny", "create a new"):  # an expert that would be changed too
        load_expert(Expert("plain", -1.0, lambda: given), given.spec, (), ())
    with refuses("tiny", "create a new"):  # a new wrapper of the same network
        apply_changes(replace(given, module=Wrapped(given.module)), [lora])


def test_layers_of_text_encoders_are_named_where_there_are_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = {
        "lora_unet_conv.lora_down.weight": torch.ones(1, 2, 3, 3),
        "lora_unet_conv.lora_up.weight": torch.ones(2, 1, 1, 1),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(1, 2),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(2, 1),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    apply_changes(source(Tiny()), [read_lora(str(tmp_path / "a.safetensors"))])
    assert "a.safetensors also changes 1 layers of text_encoder, which the bundle does not contain" in caplog.text


@pytest.mark.parametrize(
    "key",
    [
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_{}.weight",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.{}.weight",
        "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.{}.weight",
        "text_encoder.encoder.layers.0.self_attn.q_proj.lora.{}.weight",
    ],
)
def test_text_encoders_are_merged_into_by_every_name(key: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig(vocab_size=9, **sizes)).requires_grad_(False)
    before = copy.deepcopy(encoder.state_dict())
    tensors = {key.format("down"): torch.ones(1, 8), key.format("up"): torch.full((8, 1), 0.5)}
    save_file(tensors, tmp_path / "a.safetensors")
    lora = read_lora(str(tmp_path / "a.safetensors"))
    assert lora.layers("text_encoder") and not lora.layers("denoiser")
    merge(encoder, lora, "text_encoder")
    (name,) = (name for name, tensor in encoder.state_dict().items() if not torch.equal(tensor, before[name]))
    assert name.endswith("layers.0.self_attn.q_proj.weight")
    torch.testing.assert_close(encoder.state_dict()[name], before[name] + 0.5)


def test_a_graph_has_no_layers_to_merge_into(tmp_path: Path) -> None:
    lora = read_lora(str(write(tmp_path / "a.safetensors", updates(source(Tiny()).module, ["conv"]))))
    onnx: Any = OnnxSource.__new__(OnnxSource)
    object.__setattr__(onnx, "label", "model.onnx")
    with refuses("model.onnx"):
        apply_changes(onnx, [lora])
