"""Formats of quantized weights, as a file states them: in a tensor LAYER.comfy_quant of JSON bytes, or in the header.

| format | a weight is |
|---|---|
| float8_* | the stored float8 number times its scale |
| int8_tensorwise | the stored integer times its scale, for each row or for all |
| int8_tensorwise with convrot | that, times a Hadamard matrix for each group of columns (ConvRot: arXiv 2512.03673) |

Other formats, and facts that are not listed here, are refused by name: such a fact may change the weights.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.pipelines.files.weight_entries import StoredTensor
from fewstep.plans.errors import UserError

FORMAT = "comfy_quant"  # a layer's tensor of bytes
FORMATS = "_quantization_metadata"  # in the header of a file: the format of each layer
INT8 = "int8_tensorwise"
FACTS = ("format", "convrot", "convrot_groupsize", "full_precision_matrix_mult", "per_row", "orig_dtype")
TYPES = {INT8: "I8", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
USUAL_GROUP = 256  # columns
OTHERS = {"nvfp4": "NVFP4", "mxfp8": "MXFP8", "w4a4": "4-bit weights", "w4a8": "4-bit weights", "awq": "4-bit weights"}
GIVE_WIDER = "give the model's file in bfloat16 or float16, or one with float8 or int8_tensorwise weights"
NUNCHAKU = ("qweight", "wscales", "smooth_factor", "proj_down")  # of a layer, at least two


@dataclass(frozen=True)
class StoredFormat:
    """group: the number of columns that a Hadamard matrix rotates together; 0 for weights that are not rotated."""

    name: str
    group: int = 0

    @property
    def dtype(self) -> str | None:
        """safetensors' name of the type of the stored numbers, or None for a format of another type."""
        return next((dtype for name, dtype in TYPES.items() if self.name.startswith(name)), None)

    def restore(self, weight: Tensor, name: str) -> Tensor:
        """Return the weight [out, in] of a layer before its rotation. Raises UserError if the groups do not fit."""
        if not self.group:
            return weight
        if weight.dim() != 2 or weight.shape[1] % self.group:
            what = f"{name!r} of shape {list(weight.shape)} is rotated in groups of {self.group} columns"
            raise UserError(f"{what}, which do not divide it", GIVE_WIDER)
        groups = weight.reshape(len(weight), -1, self.group)
        return (groups @ hadamard(self.group)).reshape(weight.shape)


def hadamard(size: int) -> Tensor:
    """Return the symmetric, orthogonal Hadamard matrix [size, size] of ConvRot: a Kronecker power of a 4 x 4 matrix
    whose rows have equal sums. `size` is a power of 4."""
    first = torch.ones(4, 4) - 2 * torch.eye(4).flip(1)
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.kron(matrix, first)
    return matrix / size**0.5


def read_formats(entries: Mapping[str, StoredTensor]) -> dict[str, StoredFormat]:
    """Return the formats that the files of a component state, by layer. Raises UserError for a format or a fact that is
    not read, and for files of Nunchaku and NVFP4 weights, which state none."""
    _refuse_unstated(entries)
    formats: dict[str, StoredFormat] = {}
    for file in {entry.file for entry in entries.values()}:
        stated = _parse((_read_metadata(file).get(FORMATS) or "{}").encode())
        layers = stated.get("layers") if isinstance(stated, dict) else None
        for layer, described in (layers if isinstance(layers, dict) else {}).items():
            formats[layer] = _read_format(file, layer, described)
    for name, tensor in entries.items():
        layer, _, last = name.rpartition(".")
        if last == FORMAT:
            described = _parse(bytes(tensor.read().to(torch.uint8).flatten().tolist()))
            own = _read_format(tensor.file, layer, described)
            if formats.setdefault(layer, own) != own:
                raise UserError(f"{tensor.file} states two formats of {layer!r}", GIVE_WIDER)
    return formats


def _read_format(file: Path, layer: str, described: Any) -> StoredFormat:
    name = described.get("format") if isinstance(described, dict) else None
    if not isinstance(name, str) or not name:
        raise UserError(f"{file} states no format of {layer!r}, but {str(described)[:80]}", GIVE_WIDER)
    if (label := next((label for part, label in OTHERS.items() if part in name), None)) is not None:
        raise UserError(f"{file} stores {layer!r} as {label} ({name}), which fewstep does not read", GIVE_WIDER)
    if not name.startswith("float8_") and name != INT8:
        raise UserError(f"{file} stores {layer!r} in the format {name!r}, which fewstep does not read", GIVE_WIDER)
    if unread := sorted(set(described) - set(FACTS)):
        raise UserError(f"{file} states {', '.join(unread)} of {layer!r}, which fewstep does not read", GIVE_WIDER)
    is_rotated, group = described.get("convrot", False), described.get("convrot_groupsize", USUAL_GROUP)
    if not is_rotated:
        return StoredFormat(name)
    is_power = isinstance(group, int) and group >= 4 and group.bit_count() == 1 and group.bit_length() % 2 == 1
    if name != INT8 or is_rotated is not True or not is_power:
        what = f"{file} states that {layer!r} is {name}, rotated in groups of {group}"
        raise UserError(f"{what}; ConvRot is {INT8} in groups of a power of 4", GIVE_WIDER)
    return StoredFormat(name, group)


def _refuse_unstated(entries: Mapping[str, StoredTensor]) -> None:
    """Raise UserError for formats that are known by the names of their tensors."""
    parts: dict[str, set[str]] = {}
    for name in entries:
        layer, _, last = name.rpartition(".")
        parts.setdefault(layer, set()).add(last)
    for layer, names in parts.items():
        if len(names.intersection(NUNCHAKU)) > 1:
            file = next(tensor.file for name, tensor in entries.items() if name.startswith(f"{layer}."))
            what = f"{file} holds a model for Nunchaku: {layer!r} has 4-bit weights and a low-rank part"
            raise UserError(what, GIVE_WIDER)
        weight = entries.get(f"{layer}.weight")
        if "weight_scale_2" in names and weight is not None and weight.dtype == "U8":
            raise UserError(f"{weight.file} stores {layer!r} as NVFP4, which fewstep does not read", GIVE_WIDER)


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content[:80]


def _read_metadata(file: Path) -> Mapping[str, str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return opened.metadata() or {}
