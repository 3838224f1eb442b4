"""Weights in float8 or int8 that are stored with scales: the weight is the stored number times its scale.

| name of the scale | shape for a weight [out, in, ...] | written by |
|---|---|---|
| LAYER.scale_weight | one number, [out] or [out, 1, ...] | ComfyUI, with an entry `scaled_fp8` |
| LAYER.weight_scale | the same | ComfyUI, with LAYER.comfy_quant; compressed-tensors (vLLM) |
| LAYER.weight_scale_inv | one number, or [out / 128, in / 128] rounded up | DeepSeek, transformers (FP8Linear) |

An int8 weight also states its format (`stored_formats.py`), since it may be rotated. The scales of inputs,
LAYER.scale_input and LAYER.input_scale, serve products in float8, which the exported network does not have. Other
scales are not recognized here, so the tensors stay unread, and `weight_entries` refuses them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.export.sources.model_files import COPY_AGAIN
from fewstep.pipelines.files.stored_formats import FORMAT, GIVE_WIDER, INT8, StoredFormat, read_formats
from fewstep.pipelines.files.weight_entries import DEQUANTIZE, FLOATS, StoredTensor
from fewstep.plans.errors import UserError

FLOAT8 = ("F8_E4M3", "F8_E5M2")
SCALE_TYPES = (*FLOATS, "F8_E8M0")
WEIGHT_SCALES = ("scale_weight", "weight_scale", "weight_scale_inv")
INPUT_SCALES = ("scale_input", "input_scale")
MARK = "scaled_fp8"  # a tensor whose type is that of the weights
PLAIN = StoredFormat("float8")  # without a stated format
BLOCK = 128  # rows and columns of a weight with one scale


@dataclass(frozen=True)
class ScaledWeights:
    """scales: the scale of each scaled weight, by the weight's stored name. others: the names of the tensors that are
    not weights. formats: what the files state of layers."""

    scales: Mapping[str, StoredTensor]
    others: frozenset[str]
    formats: Mapping[str, StoredFormat]

    def restore(self, name: str, stored: Tensor) -> Tensor:
        """Return a scaled weight in float32, from the stored numbers. `name` is that of the file."""
        format = self.formats.get(name.removesuffix(".weight"), PLAIN)
        return format.restore(apply_scale(stored, self.scales[name]), name)


def find_scaled_weights(entries: Mapping[str, StoredTensor]) -> ScaledWeights:
    """Return the weights that a component's files store in float8 or int8 with a scale. Raises UserError for any other
    quantized format."""
    formats = read_formats(entries)
    scales: dict[str, StoredTensor] = {}
    others = set()
    for name, tensor in entries.items():
        layer, _, last = name.rpartition(".")
        weight = entries.get(f"{layer}.weight")
        if last in WEIGHT_SCALES and weight is not None and weight.dtype in (*FLOAT8, "I8"):
            if weight.dtype == "I8" and (layer not in formats or formats[layer].name != INT8):
                what = f"{tensor.file} holds {weight.name!r} as int8 with a scale, and does not state {INT8}"
                raise UserError(f"{what}: the weights may be rotated", GIVE_WIDER)
            if weight.name in scales:
                raise UserError(f"{tensor.file} holds two scales of {weight.name!r}", DEQUANTIZE)
            scales[weight.name] = tensor
    _refuse_lost_scales(entries, scales)
    for name in entries:
        layer, _, last = name.rpartition(".")
        if f"{layer}.weight" in scales and last in (*WEIGHT_SCALES, *INPUT_SCALES, FORMAT) or scales and last == MARK:
            others.add(name)
    for layer, format in formats.items():
        weight = entries.get(f"{layer}.weight")
        if weight is not None and weight.dtype in (*FLOAT8, "I8") and weight.dtype != format.dtype:
            what = f"{weight.file} states {format.name} of {layer!r}, and holds it as {weight.dtype}"
            raise UserError(what, GIVE_WIDER)
    if lacking := [layer for layer in formats if f"{layer}.weight" not in scales]:
        what = f"the files state {formats[lacking[0]].name} of {lacking[0]!r}, and hold no scale of such a weight"
        raise UserError(what, COPY_AGAIN)
    return ScaledWeights(scales, frozenset(others), formats)


def _refuse_lost_scales(entries: Mapping[str, StoredTensor], scales: Mapping[str, StoredTensor]) -> None:
    """Raise UserError for a weight in float8 without a scale, next to weights that have one: its numbers may be those
    of the weight, or a scale may be lost. A weight in int8 always has one."""
    is_marked = any(name.rpartition(".")[2] == MARK for name in entries)
    for name, tensor in entries.items():
        if name.endswith(".weight") and tensor.dtype == "I8" and name not in scales:
            known = " or ".join(WEIGHT_SCALES)
            raise UserError(f"{tensor.file} stores {name!r} as int8, without a scale called {known}", GIVE_WIDER)
        is_weight = name.endswith(".weight") and tensor.dtype in FLOAT8 and name not in scales
        if (scales or is_marked) and is_weight and tensor.read().dim() > 1:
            what = f"{tensor.file} stores weights as float8 with scales, and has no scale of {name!r}"
            raise UserError(what, GIVE_WIDER)


def apply_scale(weight: Tensor, scale: StoredTensor) -> Tensor:
    """Return a weight [out, in, ...] multiplied by its scale, in float32. Raises UserError for a scale whose shape does
    not fit, and for a scale of integers."""
    if scale.dtype not in SCALE_TYPES:  # whole numbers are exponents in the MX formats
        raise UserError(f"{scale.file} holds {scale.name!r} as {scale.dtype}, which is not a float type", DEQUANTIZE)
    factor, wide = scale.read().float(), weight.float()
    blocks = [-(-size // BLOCK) for size in weight.shape]
    if not torch.isfinite(factor).all():
        raise UserError(f"{scale.file} holds {scale.name!r}, which is not finite", DEQUANTIZE)
    if factor.numel() == 1:
        return wide * factor.reshape(())
    if scale.name.endswith("_inv") and weight.dim() == 2 and list(factor.shape) == blocks:
        rows = factor.repeat_interleave(BLOCK, 0)[: weight.shape[0]]
        return wide * rows.repeat_interleave(BLOCK, 1)[:, : weight.shape[1]]
    if not scale.name.endswith("_inv") and factor.shape[0] == factor.numel() == weight.shape[0]:
        return wide * factor.reshape([-1] + [1] * (weight.dim() - 1))
    what = f"{scale.file} holds {scale.name!r} of shape {list(factor.shape)} for a weight {list(weight.shape)}"
    raise UserError(f"{what}, which is not a per-tensor, per-row or per-block scale", DEQUANTIZE)
