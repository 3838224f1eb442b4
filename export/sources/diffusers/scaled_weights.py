"""Weights in float8 that are stored with scales: the weight is the stored number times its scale.

| name of the scale | shape for a weight [out, in, ...] | written by |
|---|---|---|
| LAYER.scale_weight | one number, [out] or [out, 1, ...] | ComfyUI, with an entry `scaled_fp8` |
| LAYER.weight_scale | the same | ComfyUI, with LAYER.comfy_quant; compressed-tensors (vLLM) |
| LAYER.weight_scale_inv | one number, or [out / 128, in / 128] rounded up | DeepSeek, transformers (FP8Linear) |

The scales of inputs, LAYER.scale_input and LAYER.input_scale, serve products in float8, which the exported network does
not have. Other scales are not recognized here, so the tensors stay unread, and `weight_entries` refuses them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.export.sources.diffusers.weight_entries import DEQUANTISE, FLOATS, StoredTensor
from fewstep.plans.errors import UserError

FLOAT8 = ("F8_E4M3", "F8_E5M2")
SCALE_TYPES = (*FLOATS, "F8_E8M0")
WEIGHT_SCALES = ("scale_weight", "weight_scale", "weight_scale_inv")
INPUT_SCALES = ("scale_input", "input_scale")
FORMAT = "comfy_quant"  # a layer's tensor of bytes: JSON with the format
FORMATS = "_quantization_metadata"  # in the header of a file: the format of each layer
MARK = "scaled_fp8"  # a tensor whose type is that of the weights
BLOCK = 128  # rows and columns of a weight with one scale


@dataclass(frozen=True)
class ScaledWeights:
    """scales: the scale of each scaled weight, by the weight's stored name. others: the names of the tensors that are
    not weights."""

    scales: Mapping[str, StoredTensor]
    others: frozenset[str]


def find_scaled_weights(entries: Mapping[str, StoredTensor]) -> ScaledWeights:
    """Return the weights that a component's files store in float8 with a scale. Raises UserError for any other
    quantised format."""
    scales: dict[str, StoredTensor] = {}
    others = set()
    for name, tensor in entries.items():
        layer, _, last = name.rpartition(".")
        weight = entries.get(f"{layer}.weight")
        if last in WEIGHT_SCALES and weight is not None and weight.dtype in FLOAT8:
            if weight.name in scales:
                raise UserError(f"{tensor.file} holds two scales of {weight.name!r}", DEQUANTISE)
            scales[weight.name] = tensor
    for name in entries:
        layer, _, last = name.rpartition(".")
        if f"{layer}.weight" in scales and last in (*WEIGHT_SCALES, *INPUT_SCALES, FORMAT) or scales and last == MARK:
            others.add(name)
    _check_formats(entries, others)
    return ScaledWeights(scales, frozenset(others))


def apply_scale(weight: Tensor, scale: StoredTensor) -> Tensor:
    """Return a weight [out, in, ...] multiplied by its scale, in float32. Raises UserError for a scale whose shape does
    not fit, and for a scale of integers."""
    if scale.dtype not in SCALE_TYPES:  # whole numbers are exponents in the MX formats
        raise UserError(f"{scale.file} holds {scale.name!r} as {scale.dtype}, which is not a float type", DEQUANTISE)
    factor, wide = scale.read().float(), weight.float()
    blocks = [-(-size // BLOCK) for size in weight.shape]
    if not torch.isfinite(factor).all():
        raise UserError(f"{scale.file} holds {scale.name!r}, which is not finite", DEQUANTISE)
    if factor.numel() == 1:
        return wide * factor.reshape(())
    if scale.name.endswith("_inv") and weight.dim() == 2 and list(factor.shape) == blocks:
        rows = factor.repeat_interleave(BLOCK, 0)[: weight.shape[0]]
        return wide * rows.repeat_interleave(BLOCK, 1)[:, : weight.shape[1]]
    if not scale.name.endswith("_inv") and factor.shape[0] == factor.numel() == weight.shape[0]:
        return wide * factor.reshape([-1] + [1] * (weight.dim() - 1))
    what = f"{scale.file} holds {scale.name!r} of shape {list(factor.shape)} for a weight {list(weight.shape)}"
    raise UserError(f"{what}, which is not a per-tensor, per-row or per-block scale", DEQUANTISE)


def _check_formats(entries: Mapping[str, StoredTensor], others: Iterable[str]) -> None:
    """Raise UserError for a layer whose stated format is not float8 times a scale."""
    for name in others:
        if name.endswith(f".{FORMAT}"):
            _check_format(entries[name].file, name, _parse(bytes(entries[name].read().to(torch.uint8).tolist())))
    if others:
        for file in {each.file for each in entries.values()}:
            stated = _parse((_read_metadata(file).get(FORMATS) or "{}").encode())
            for layer, described in (stated.get("layers") or {}).items():
                _check_format(file, layer, described)


def _check_format(file: Path, name: str, described: Any) -> None:
    known = isinstance(described, dict) and set(described) <= {"format", "full_precision_matrix_mult"}
    if not known or not str(described.get("format")).startswith("float8_"):
        what = f"{file} states the format {described} for {name!r}, which is not float8 times a scale"
        raise UserError(what, DEQUANTISE)


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content[:80]


def _read_metadata(file: Path) -> Mapping[str, str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return opened.metadata() or {}
