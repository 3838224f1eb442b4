"""Weights in float8 are multiplied by the scales that are stored with them."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fewstep.pipelines.files.loading import load_network
from fewstep.pipelines.files.scaled_weights import apply_scale
from fewstep.pipelines.files.weight_entries import StoredTensor
from fewstep.plans.errors import UserError
from tests.refusals import refuses

diffusers = pytest.importorskip("diffusers")
safetensors = pytest.importorskip("safetensors.torch")

WEIGHTS = "diffusion_pytorch_model.safetensors"
Tensors = dict[str, Tensor]


def layers_of(tensors: Tensors) -> list[str]:
    return [
        name.removesuffix(".weight") for name, tensor in tensors.items() if name.endswith(".weight") and tensor.ndim > 1
    ]


def to_float8(tensors: Tensors, ending: str, is_by_row: bool, kind: torch.dtype) -> tuple[Tensors, Tensors]:
    """Return the tensors with float8 weights and their scales, and the weights that they represent."""
    stored, meant = dict(tensors), dict(tensors)
    for layer in layers_of(tensors):
        weight = tensors[f"{layer}.weight"]
        scale = weight.abs().flatten(1).amax(1) / 240 if is_by_row else weight.abs().amax() / 240
        rows = scale.reshape([-1] + [1] * (weight.ndim - 1)) if is_by_row else scale
        stored[f"{layer}.weight"] = (weight / rows).to(kind)
        stored[f"{layer}.{ending}"] = scale
        meant[f"{layer}.weight"] = stored[f"{layer}.weight"].float() * rows
    return stored, meant


def load_tensors(plain: Path, home: Path, tensors: Tensors, **metadata: str) -> Tensors:
    """The weights of the network whose file holds these tensors."""
    home.mkdir()
    (home / "config.json").write_bytes((plain / "config.json").read_bytes())
    safetensors.save_file(tensors, home / WEIGHTS, {"format": "pt", **metadata})
    return load_network(home)[0].state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize(
    ("ending", "is_by_row"),
    [("scale_weight", False), ("weight_scale", False), ("weight_scale", True), ("weight_scale_inv", False)],
)
def test_a_weight_is_the_stored_number_times_its_scale(
    plain: Path, tmp_path: Path, ending: str, is_by_row: bool, kind: torch.dtype
) -> None:
    stored, meant = to_float8(safetensors.load_file(plain / WEIGHTS), ending, is_by_row, kind)
    found = load_tensors(plain, tmp_path / "f", stored)
    assert found.keys() == meant.keys() and all(torch.equal(found[name], meant[name]) for name in meant)


@pytest.mark.parametrize(("kind", "name"), [(torch.uint8, "U8"), (torch.bool, "BOOL"), (torch.int32, "I32")], ids=str)
def test_a_scale_that_is_no_float_is_refused(plain: Path, tmp_path: Path, kind: torch.dtype, name: str) -> None:
    stored, _ = to_float8(safetensors.load_file(plain / WEIGHTS), "weight_scale", False, torch.float8_e4m3fn)
    stored["conv_in.weight_scale"] = torch.tensor(120).to(kind)  # 2^-7 in an MX format
    with refuses(("'conv_in.weight_scale'", name)):
        load_tensors(plain, tmp_path / "f", stored)


def test_a_scale_may_be_an_exponent_of_float8(plain: Path, tmp_path: Path) -> None:
    tensors = safetensors.load_file(plain / WEIGHTS)
    small = (tensors["conv_in.weight"] * 128).to(torch.float8_e4m3fn)
    scale = torch.tensor(120, dtype=torch.uint8).view(torch.float8_e8m0fnu)  # 2^-7
    found = load_tensors(plain, tmp_path / "f", tensors | {"conv_in.weight": small, "conv_in.weight_scale": scale})
    assert torch.equal(found["conv_in.weight"], small.float() / 128)


def test_entries_that_describe_the_weights_are_no_weights(plain: Path, tmp_path: Path) -> None:
    stored, meant = to_float8(safetensors.load_file(plain / WEIGHTS), "scale_weight", False, torch.float8_e4m3fn)
    stored = {f"_orig_mod.{name}": each for name, each in stored.items()}
    inputs = {f"_orig_mod.{layer}.scale_input": torch.tensor(3.0) for layer in layers_of(meant)}
    found = load_tensors(
        plain, tmp_path / "f", stored | inputs | {"scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn)}
    )
    assert found.keys() == meant.keys() and torch.equal(found["conv_in.weight"], meant["conv_in.weight"])


@pytest.mark.parametrize(
    ("format", "says"),
    [
        ({"format": "float8_e4m3fn"}, None),
        ({"format": "float8_e4m3fn", "rotated": 1}, "rotated"),
        ({}, "states no format"),
    ],
    ids=["plain", "more", "none"],
)
@pytest.mark.parametrize("is_in_header", [True, False])
def test_a_stated_format_is_float8_times_a_scale(
    plain: Path, tmp_path: Path, is_in_header: bool, format: dict[str, object], says: str | None
) -> None:
    stored, meant = to_float8(safetensors.load_file(plain / WEIGHTS), "weight_scale", False, torch.float8_e4m3fn)
    header = {"_quantization_metadata": json.dumps({"layers": {"conv_in": format}})} if is_in_header else {}
    if not is_in_header:
        stored["conv_in.comfy_quant"] = torch.tensor([*json.dumps(format).encode()], dtype=torch.uint8)
    if says is None:
        assert torch.equal(
            load_tensors(plain, tmp_path / "f", stored, **header)["conv_in.weight"], meant["conv_in.weight"]
        )
        return
    with pytest.raises(UserError, match=f"{says}.*; give the model's file in bfloat16"):
        load_tensors(plain, tmp_path / "f", stored, **header)


def test_a_network_with_int8_weights_is_loaded(plain: Path, tmp_path: Path) -> None:
    tensors = safetensors.load_file(plain / WEIGHTS)
    weight = tensors["conv_in.weight"]
    scale = weight.abs().flatten(1).amax(1) / 127
    integers = (weight / scale.reshape(-1, 1, 1, 1)).round().to(torch.int8)
    format = torch.tensor([*json.dumps({"format": "int8_tensorwise"}).encode()], dtype=torch.uint8)
    stored = {"conv_in.weight": integers, "conv_in.weight_scale": scale, "conv_in.comfy_quant": format}
    tensors_of_network = load_tensors(plain, tmp_path / "f", tensors | stored)
    assert torch.equal(tensors_of_network["conv_in.weight"], integers.float() * scale.reshape(-1, 1, 1, 1))


def read(folder: Path, name: str, scale: Tensor) -> StoredTensor:
    safetensors.save_file({name: scale}, folder / "scale.safetensors")
    return StoredTensor(folder / "scale.safetensors", name, "F32")


def test_blocks_of_128_have_a_scale_each(tmp_path: Path) -> None:
    weight, scale = torch.ones(200, 300, dtype=torch.float8_e4m3fn), torch.arange(1.0, 7.0).reshape(2, 3)
    found = apply_scale(weight, read(tmp_path, "layer.weight_scale_inv", scale))
    assert found.shape == (200, 300)
    for row, column in ((0, 0), (127, 128), (128, 127), (199, 299), (130, 255)):
        assert found[row, column] == scale[row // 128, column // 128]


@pytest.mark.parametrize(
    ("name", "shape"), [("weight_scale", (2, 3)), ("weight_scale_inv", (3, 2)), ("scale_weight", (300,))]
)
def test_a_scale_of_another_shape_is_refused(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    weight = torch.ones(200, 300, dtype=torch.float8_e4m3fn)
    with refuses((f"'layer.{name}'", str([*shape]), "[200, 300]")):
        apply_scale(weight, read(tmp_path, f"layer.{name}", torch.ones(shape)))


def test_a_scale_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'layer.weight_scale', which is not finite"):
        apply_scale(torch.ones(2, 3), read(tmp_path, "layer.weight_scale", torch.tensor(float("nan"))))
