"""Files with more weights than the network reads, or with other names."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.export.sources.model_files import find_weights
from fewstep.pipelines.companions.stored_network import read_stored
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.files.loading import load_network
from fewstep.plans.errors import UserError
from tests.refusals import refuses
from tests.tiny_pipelines import clip, text_encoders, write_clip_tokenizer

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

Tensors = dict[str, Tensor]
WEIGHTS = "diffusion_pytorch_model.safetensors"
SCALE = 0.02
INDEX_ENDING = ".safetensors.index.json"


def rewritten(plain: Path, home: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """A copy of the folder with other tensors in its file."""
    shutil.copytree(plain, home)
    safetensors.save_file(change(safetensors.load_file(plain / WEIGHTS)), home / WEIGHTS, {"format": "pt"})
    return home


@cache
def weights_of(plain: Path) -> Tensors:
    """The weights of a folder that no test changes."""
    return dict(load_network(plain)[0].state_dict())


def same_weights(home: Path, plain: Path) -> bool:
    found, expected = load_network(home)[0].state_dict(), weights_of(plain)
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def float8_convolutions(tensors: Tensors, ending: str) -> Tensors:
    """Convolutions in float8, each with its scale."""
    layers = [name.removesuffix(".weight") for name, tensor in tensors.items() if tensor.ndim == 4]
    small = {f"{layer}.weight": (tensors[f"{layer}.weight"] / SCALE).to(torch.float8_e4m3fn) for layer in layers}
    return tensors | small | {f"{layer}.{ending}": torch.tensor(SCALE) for layer in layers}


@pytest.mark.parametrize("ending", ["SCB", "weight_scale_2"])
def test_other_scales_of_float8_weights_are_refused_by_name(plain: Path, ending: str, tmp_path: Path) -> None:
    home = rewritten(plain, tmp_path / "f", lambda tensors: float8_convolutions(tensors, ending))
    with pytest.raises(
        UserError, match=rf"as F8_E4M3 with scales, such as 'conv_in.{ending}'.*dequantized by the program"
    ):
        load_network(home)


def test_weights_in_whole_numbers_are_refused(plain: Path, tmp_path: Path) -> None:
    home = rewritten(plain, tmp_path / "f", lambda each: each | {"conv_in.weight": each["conv_in.weight"].char()})
    with pytest.raises(UserError, match="stores 'conv_in.weight' as int8, without a scale called scale_weight"):
        load_network(home)


def test_complex_weights_are_refused(plain: Path, tmp_path: Path) -> None:
    home = rewritten(plain, tmp_path / "f", lambda each: each | {"conv_in.weight": each["conv_in.weight"] * 1j})
    with refuses(("'conv_in.weight'", "C64")):
        load_network(home)


@pytest.mark.parametrize("name", ["conv_in.lora_scale", "unknown.weight"])
def test_a_weight_that_nothing_reads_is_refused_by_name(plain: Path, name: str, tmp_path: Path) -> None:
    home = rewritten(plain, tmp_path / "f", lambda tensors: tensors | {name: torch.ones(3)})
    with refuses(("weights that a UNet2DModel does not read", f"'{name}'")):
        load_network(home)


def test_weights_with_other_names_are_refused_with_these_names(plain: Path, tmp_path: Path) -> None:
    """Another copy of the folder would have the same names."""
    home = rewritten(
        plain, tmp_path / "f", lambda each: {name.replace("conv_in.", "stem."): each[name] for name in each}
    )
    message = (
        "have no 'conv_in.bias', and hold 'stem.bias', 'stem.weight', which a UNet2DModel does not read; "
        "name their class in its config.json, or rename them"
    )
    with pytest.raises(UserError, match=message):
        load_network(home)


def test_a_missing_weight_needs_another_copy(plain: Path, tmp_path: Path) -> None:
    home = rewritten(plain, tmp_path / "f", lambda each: {n: each[n] for n in each if n != "conv_in.bias"})
    with refuses("'conv_in.bias'", "copy the folder again"):
        load_network(home)


def test_counters_of_a_trainer_are_named_and_left_out(
    plain: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counters = {"ema_decay": torch.tensor(0.999), "num_updates": torch.tensor(3)}
    assert same_weights(rewritten(plain, tmp_path / "f", lambda tensors: tensors | counters), plain)
    assert "ignored 'ema_decay', 'num_updates', since no output depends" in caplog.text


def test_a_matrix_with_the_name_of_a_counter_is_refused(plain: Path, tmp_path: Path) -> None:
    home = rewritten(plain, tmp_path / "f", lambda tensors: tensors | {"decay": torch.ones(2, 2)})
    with pytest.raises(UserError, match="does not read: 'decay'"):
        load_network(home)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_removed(plain: Path, prefix: str, tmp_path: Path) -> None:
    home = rewritten(plain, tmp_path / "f", lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()})
    assert same_weights(home, plain)


def test_a_prefix_in_shards_is_removed(plain: Path, tmp_path: Path) -> None:
    tensors = {f"module.{name}": tensor for name, tensor in safetensors.load_file(plain / WEIGHTS).items()}
    shutil.copytree(plain, tmp_path / "f", ignore=shutil.ignore_patterns("*.safetensors"))
    where = {name: f"part-{number % 2}.safetensors" for number, name in enumerate(tensors)}
    for file in set(where.values()):
        own = {name: tensor for name, tensor in tensors.items() if where[name] == file}
        safetensors.save_file(own, tmp_path / "f" / file, {"format": "pt"})
    (tmp_path / "f" / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert same_weights(tmp_path / "f", plain)


def test_a_tensor_that_the_index_of_shards_does_not_list_is_refused(plain: Path, tmp_path: Path) -> None:
    home = rewritten(plain, tmp_path / "f", lambda tensors: float8_convolutions(tensors, "scale_weight"))
    (home / WEIGHTS).rename(home / "part.safetensors")
    listed = dict.fromkeys(safetensors.load_file(plain / WEIGHTS), "part.safetensors")
    (home / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    with refuses("'conv_in.scale_weight'"):
        load_network(home)


def twice_stored(plain: Path, home: Path, factor: float) -> Path:
    """A folder of two shards, of which the second holds a tensor of the first once more, times a factor."""
    tensors = safetensors.load_file(plain / WEIGHTS)
    shutil.copytree(plain, home, ignore=shutil.ignore_patterns("*.safetensors"))
    safetensors.save_file(tensors, home / "part-0.safetensors", {"format": "pt"})
    again = {"conv_in.weight": factor * tensors["conv_in.weight"]}
    safetensors.save_file(again, home / "part-1.safetensors", {"format": "pt"})
    where = dict.fromkeys(tensors, "part-0.safetensors") | dict.fromkeys(again, "part-1.safetensors")
    (home / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return home


def test_shards_with_different_values_of_a_tensor_are_refused(plain: Path, tmp_path: Path) -> None:
    assert same_weights(twice_stored(plain, tmp_path / "same", 1.0), plain)
    with refuses(("part-0", "part-1.safetensors", "'conv_in.weight'")):
        load_network(twice_stored(plain, tmp_path / "other", 2.0))


def test_another_prefix_is_named(plain: Path, tmp_path: Path) -> None:
    home = rewritten(plain, tmp_path / "f", lambda tensors: {f"ema.{name}": tensor for name, tensor in tensors.items()})
    with refuses("'conv_in.bias'", "without 'ema.'"):
        load_network(home)


def test_a_weight_with_and_without_a_prefix_is_refused(plain: Path, tmp_path: Path) -> None:
    twice = {"_orig_mod.conv_in.bias": torch.zeros(16)}
    home = rewritten(plain, tmp_path / "f", lambda tensors: tensors | twice)
    with pytest.raises(UserError, match="holds 'conv_in.bias' with and without"):
        load_network(home)


def test_a_config_of_quantized_weights_is_refused(plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "f")
    config = json.loads((plain / "config.json").read_text())
    quantized = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    (tmp_path / "f" / "config.json").write_text(json.dumps(config | quantized))
    with refuses("bitsandbytes", "float16"):
        load_network(tmp_path / "f")


def text_folder(home: Path, change: Callable[[Tensors], Tensors]) -> tuple[Any, Any]:
    """A text encoder, and the weights that are read from its folder with other tensors."""
    files = write_clip_tokenizer(home / "tokenizer")
    encoder = clip(files)
    components = {"text_encoder": encoder, "tokenizer": transformers.CLIPTokenizer.from_pretrained(files)}
    text_encoders(home, "StableDiffusionPipeline", **components)
    file = home / "text_encoder" / "model.safetensors"
    safetensors.save_file(change(safetensors.load_file(file)), file, {"format": "pt"})
    return encoder, read_stored(Folder(home), "text_encoder", transformers.CLIPTextModel).load()


def test_a_prefix_of_a_text_encoder_is_removed(tmp_path: Path) -> None:
    def wrap_names(tensors: Tensors) -> Tensors:
        return {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}

    expected, found = (each.state_dict() for each in text_folder(tmp_path, wrap_names))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_positions_that_a_text_encoder_has_anyway_are_left_unread(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    expected, found = text_folder(tmp_path, lambda tensors: tensors | positions)
    states = expected.state_dict(), found.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert "unread" not in caplog.text


def test_a_float8_weight_of_a_text_encoder_is_multiplied_by_its_scale(tmp_path: Path) -> None:
    def float8_layer(tensors: Tensors) -> Tensors:
        weight = next(name for name in tensors if name.endswith("mlp.fc1.weight"))
        small = (tensors[weight] / SCALE).to(torch.float8_e4m3fn)
        return tensors | {weight: small, weight.replace(".weight", ".scale_weight"): torch.tensor(SCALE)}

    expected, found = (each.state_dict() for each in text_folder(tmp_path, float8_layer))
    name = next(name for name in expected if name.endswith("mlp.fc1.weight"))
    scaled_weight = (expected[name] / SCALE).to(torch.float8_e4m3fn).float() * SCALE
    assert torch.allclose(found[name], scaled_weight, rtol=1e-6, atol=0) and not torch.equal(
        found[name], expected[name]
    )


def test_a_weight_that_a_text_encoder_does_not_read_is_refused(tmp_path: Path) -> None:
    with refuses(("weights that a CLIPTextModel does not read", "'own.weight'")):
        text_folder(tmp_path, lambda tensors: tensors | {"text_model.own.weight": torch.ones(3)})


@pytest.mark.parametrize(("stem", "is_whole"), [("model", True), ("diffusion_pytorch_model", False)])
def test_of_a_whole_file_and_shards_the_library_reads_one(stem: str, is_whole: bool, tmp_path: Path) -> None:
    whole, shard, index = (tmp_path / f"{stem}{end}" for end in (".safetensors", "-1.safetensors", INDEX_ENDING))
    whole.touch()
    shard.touch()
    index.write_text(json.dumps({"weight_map": {"a": shard.name}}))
    assert find_weights(tmp_path, stem).files == ((whole,) if is_whole else (index, shard))
