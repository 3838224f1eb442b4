"""Formats that files state: int8 weights, also rotated ones (ConvRot), are restored, and others are refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.export.sources.model_files import find_weights
from fewstep.pipelines.files.scaled_weights import find_scaled_weights
from fewstep.pipelines.files.stored_formats import hadamard, read_formats
from fewstep.pipelines.files.weight_entries import StoredTensor, read_entries
from fewstep.plans.errors import UserError
from tests.refusals import refuses

safetensors = pytest.importorskip("safetensors.torch")

FOUR = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=torch.float64)
WEIGHT = torch.randn(24, 128, generator=torch.Generator().manual_seed(0))


def entries(home: Path, tensors: dict[str, Tensor], **metadata: str) -> dict[str, StoredTensor]:
    safetensors.save_file(tensors, home / "diffusion_pytorch_model.safetensors", {"format": "pt", **metadata})
    return read_entries(find_weights(home))


def encode_format(format: object) -> Tensor:
    return torch.tensor([*json.dumps(format).encode()], dtype=torch.uint8)


def quantize(group: int, by_row: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Integers and scales of WEIGHT, rotated in groups of columns by the definition, and the weight that they mean."""
    rotation = torch.ones(1, 1, dtype=torch.float64)
    while len(rotation) < group:
        rotation = torch.kron(rotation, FOUR) / 2
    rotated = (WEIGHT.double().reshape(24, -1, len(rotation)) @ rotation.T).reshape(24, 128)
    scale = (rotated.abs().amax(1, keepdim=True) if by_row else rotated.abs().amax()) / 127
    integers = (rotated / scale).round()
    meant = ((integers * scale).reshape(24, -1, len(rotation)) @ rotation).reshape(24, 128)
    return integers.to(torch.int8), scale.float(), meant.float()


@pytest.mark.parametrize("size", [4, 16, 64, 256])
def test_the_matrix_is_symmetric_and_orthogonal_with_equal_sums_of_rows(size: int) -> None:
    matrix = hadamard(size).double()
    torch.testing.assert_close(matrix @ matrix, torch.eye(size, dtype=torch.float64))
    assert torch.equal(matrix, matrix.T)
    torch.testing.assert_close(matrix.sum(1), torch.ones(size, dtype=torch.float64))


@pytest.mark.parametrize("is_in_header", [True, False])
@pytest.mark.parametrize(("group", "by_row"), [(0, True), (0, False), (4, True), (16, True), (64, False)])
def test_int8_weights_are_restored(tmp_path: Path, group: int, by_row: bool, is_in_header: bool) -> None:
    integers, scale, meant = quantize(group, by_row)
    format: dict[str, Any] = {"format": "int8_tensorwise", "per_row": by_row, "orig_dtype": "torch.bfloat16"}
    if group:
        format |= {"convrot": True, "convrot_groupsize": group}
    tensors = {"a.weight": integers, "a.weight_scale": scale, "a.bias": torch.zeros(24)}
    header = {"_quantization_metadata": json.dumps({"layers": {"a": format}})} if is_in_header else {}
    tensors |= {} if is_in_header else {"a.comfy_quant": encode_format(format)}
    scaled = find_scaled_weights(entries(tmp_path, tensors, **header))
    torch.testing.assert_close(scaled.restore("a.weight", integers), meant, atol=2e-6, rtol=0)
    assert (meant - WEIGHT).abs().max() < 0.05  # the other sign or order of the rotation would be off by 1 and more
    assert scaled.others == {"a.weight_scale"} | ({"a.comfy_quant"} if not is_in_header else set())


@pytest.mark.parametrize(
    ("format", "says"),
    [
        ({"format": "nvfp4", "group_size": 16}, "as NVFP4 (nvfp4)"),
        ({"format": "mxfp8"}, "as MXFP8 (mxfp8)"),
        ({"format": "int4_convrot_w4a4"}, "as 4-bit weights (int4_convrot_w4a4)"),
        ({"format": "asym_w4a8_int8"}, "as 4-bit weights (asym_w4a8_int8)"),
        ({"format": "int8_blockwise", "group_size": 128}, "in the format 'int8_blockwise'"),
        ({"format": "int8_tensorwise", "group_size": 16}, "states group_size of 'a'"),
        ({"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 32}, "rotated in groups of 32"),
        ({"format": "int8_tensorwise", "convrot": "yes"}, "rotated in groups of 256"),
        ({"format": "float8_e4m3fn", "convrot": True}, "'a' is float8_e4m3fn, rotated"),
        ({"convrot": True}, "states no format of 'a'"),
        ("int8_tensorwise", "states no format of 'a'"),
    ],
)
def test_other_formats_and_facts_are_refused_by_name(tmp_path: Path, format: object, says: str) -> None:
    integers, scale, _ = quantize(0)
    tensors = {"a.weight": integers, "a.weight_scale": scale, "a.comfy_quant": encode_format(format)}
    with refuses(says, "bfloat16 or float16"):
        find_scaled_weights(entries(tmp_path, tensors))


def test_int8_without_a_format_is_refused_since_it_may_be_rotated(tmp_path: Path) -> None:
    integers, scale, _ = quantize(16)
    with refuses(("'a.weight' as int8 with a scale", "may be rotated"), "bfloat16 or float16"):
        find_scaled_weights(entries(tmp_path, {"a.weight": integers, "a.weight_scale": scale}))


def test_two_formats_of_a_layer_are_refused(tmp_path: Path) -> None:
    integers, scale, _ = quantize(16)
    plain, rotated = {"format": "int8_tensorwise"}, {"format": "int8_tensorwise", "convrot": True}
    tensors = {"a.weight": integers, "a.weight_scale": scale, "a.comfy_quant": encode_format(rotated)}
    with refuses("two formats of 'a'"):
        read_formats(entries(tmp_path, tensors, _quantization_metadata=json.dumps({"layers": {"a": plain}})))


def test_a_format_of_a_weight_that_has_no_scale_is_refused(tmp_path: Path) -> None:
    tensors = {"a.weight": WEIGHT, "a.comfy_quant": encode_format({"format": "int8_tensorwise"})}
    with refuses(("int8_tensorwise of 'a'", "no scale")):
        find_scaled_weights(entries(tmp_path, tensors))


def test_a_format_of_another_type_than_the_weight_s_is_refused(tmp_path: Path) -> None:
    tensors = {"a.weight": WEIGHT.to(torch.float8_e4m3fn), "a.weight_scale": torch.tensor(2.0)}
    for name in ("float8_e5m2", "int8_tensorwise"):
        with refuses((f"{name} of 'a'", "F8_E4M3"), "bfloat16 or float16"):
            find_scaled_weights(entries(tmp_path, tensors | {"a.comfy_quant": encode_format({"format": name})}))


@pytest.mark.parametrize("name", ["b.weight_scale", "scaled_fp8"])
def test_a_float8_weight_that_lost_its_scale_is_refused(tmp_path: Path, name: str) -> None:
    """Whether other weights have one, or the file says that all have."""
    small = WEIGHT.to(torch.float8_e4m3fn)
    tensors = {"a.weight": small, "b.weight": small.clone(), "norm.weight": small[0].clone()}
    scales = {"b.weight_scale": torch.tensor(2.0)}
    with refuses(("float8 with scales", "no scale of 'a.weight'"), "bfloat16 or float16"):
        find_scaled_weights(entries(tmp_path, tensors | scales | {name: torch.tensor(2.0)}))
    weights = find_scaled_weights(entries(tmp_path, tensors | scales | {"a.weight_scale": torch.tensor(2.0)}))
    assert set(weights.scales) == {"a.weight", "b.weight"}


def test_groups_that_do_not_divide_a_weight_are_refused(tmp_path: Path) -> None:
    integers, scale, _ = quantize(0)
    format = {"format": "int8_tensorwise", "convrot": True}  # 256 columns
    tensors = {"a.weight": integers, "a.weight_scale": scale, "a.comfy_quant": encode_format(format)}
    with refuses(("'a.weight'", "groups of 256 columns")):
        find_scaled_weights(entries(tmp_path, tensors)).restore("a.weight", integers)


def test_nvfp4_and_nunchaku_are_known_by_their_tensors(tmp_path: Path) -> None:
    half = torch.zeros(24, 64, dtype=torch.uint8)
    with refuses("'a' as NVFP4", "bfloat16 or float16"):
        read_formats(entries(tmp_path, {"a.weight": half, "a.weight_scale_2": torch.ones(1)}))
    with refuses(("model for Nunchaku", "'a'"), "bfloat16 or float16"):
        read_formats(entries(tmp_path, {"a.qweight": half, "a.wscales": torch.ones(8, 24), "b.weight": WEIGHT}))


def test_a_folder_for_nunchaku_is_refused_by_name(tmp_path: Path) -> None:
    safetensors.save_file({"a": WEIGHT}, tmp_path / "unquantized_layers.safetensors")
    with pytest.raises(UserError, match="holds a model for Nunchaku"):
        find_weights(tmp_path)
