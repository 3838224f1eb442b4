"""Check stored weights: the network must read each of them, and compute in its type.

diffusers and transformers load a file with more tensors than the network reads, such as the scales of quantized
weights, and convert any stored type. Tensors that they leave unread are refused here, unless no output can depend on
them.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewstep.export.sources.model_files import COPY_AGAIN, GIVE_PIPELINE, Weights
from fewstep.export.weight_names import COUNTERS, common_prefix, strip_wrapper_prefixes
from fewstep.plans.errors import UserError

LOG = logging.getLogger("fewstep")
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")  # types whose numbers are the weights, without a scale
WIDE = FLOATS[:4]  # types wide enough to need no scale
SCALES = (
    "scale",
    "zero_point",
    "absmax",
    "quant",
    "SCB",
    "qweight",
    "qzeros",
)  # parts of the names of dequantization tensors
DEQUANTIZE = "write the weights in float16 or float32, dequantized by the program that quantized them"
NAMED = 3  # names that an error lists


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a safetensors file, from the file's header."""

    file: Path
    name: str
    dtype: str  # safetensors' name, such as "F32"

    def read(self) -> torch.Tensor:
        """Return its values."""
        from safetensors import safe_open

        with safe_open(self.file, "pt") as opened:
            values: torch.Tensor = opened.get_tensor(self.name)
        return values


def read_entries(stored: Weights) -> dict[str, StoredTensor]:
    """Return the tensors of a component's files by name. Raises UserError for a shard with a tensor that the index does
    not list, which the libraries would ignore, and for two shards with different values of a tensor."""
    entries: dict[str, StoredTensor] = {}
    for file in stored.tensors:
        read = _read_header(file)
        for name in sorted(set(read) & set(entries)):
            if not _are_equal(entries[name], read[name]):
                raise UserError(f"{entries[name].file} and {file.name} hold different values of {name!r}", COPY_AGAIN)
        entries |= read
    if stored.names_in_index is not None and (unlisted := sorted(set(entries) - stored.names_in_index)):
        file = entries[unlisted[0]].file
        raise UserError(
            f"{file} holds {_format_names(unlisted)}, which the index of the shards does not list", COPY_AGAIN
        )
    return entries


def refuse_damaged(stored: Weights) -> None:
    """Raise UserError for a file of a component that is cut short, or no safetensors file. Reads headers only."""
    for file in stored.tensors:
        _read_header(file)


def _read_header(file: Path) -> dict[str, StoredTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            names = opened.keys()
            return {name: StoredTensor(file, name, opened.get_slice(name).get_dtype()) for name in names}
    except SafetensorError as error:
        raise UserError(f"{file} is not a safetensors file ({error})", COPY_AGAIN) from error


def _are_equal(one: StoredTensor, other: StoredTensor) -> bool:
    """Return whether two tensors have the same type, shape and bytes."""
    a, b = one.read(), other.read()
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def unwrap_names(home: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the names without wrapper prefixes. Raises UserError if two become equal."""
    named = strip_wrapper_prefixes(names)
    if len(set(named.values())) != len(named):
        values = list(named.values())
        twice = next(short for short in values if values.count(short) > 1)
        raise UserError(f"{home} holds {twice!r} with and without the prefix of a wrapper", GIVE_PIPELINE)
    return named


def check_entries(network: nn.Module, home: Path, entries: Mapping[str, StoredTensor], info: Mapping[str, Any]) -> None:
    """Raise UserError for a weight that the files lack, for a stored tensor that the network does not read, and for a
    weight that is stored quantized. `info` is the loading info that diffusers or transformers returns."""
    unread = {name: _entry(entries, name) for name in sorted(info["unexpected_keys"])}
    for name, tensor in unread.items():
        if tensor is not None and (dtype := _type_of_scaled_weight(tensor.name, entries)):
            what = f"{home} stores weights as {dtype} with scales, such as {name!r}, which the network does not read"
            raise UserError(what, f"{DEQUANTIZE}, and leave the scales out")
    if missing := sorted(info["missing_keys"]):
        raise _missing_weights(network, home, missing, entries, unread)
    for name, weight in network.state_dict().items():
        stored = _entry(entries, name)
        is_number = weight.is_floating_point() or weight.is_complex()  # libraries may keep the stored type
        if is_number and stored is not None and stored.dtype not in FLOATS:
            raise UserError(f"{home} stores {name!r} as {stored.dtype}, which is not a float type", DEQUANTIZE)
    counters = [name for name, each in unread.items() if name in COUNTERS and each and each.read().numel() == 1]
    own = dict(network.named_buffers())
    kept = [name for name, each in unread.items() if name in own and each and _same(own[name], each.read())]
    if others := [name for name in unread if name not in counters and name not in kept]:
        what = f"{home} holds weights that a {type(network).__name__} does not read: {_format_names(others)}"
        raise UserError(what, f"name their class in its config.json, or remove them from the file; {GIVE_PIPELINE}")
    if counters:
        LOG.warning("%s: ignored %s, since no output depends on them", home, _format_names(counters))


def _entry(entries: Mapping[str, StoredTensor], name: str) -> StoredTensor | None:
    """Return the stored tensor of a name, or of a name that begins with it as the last parts, since transformers drops
    the first parts of some names, such as `text_model.`. None if there is none."""
    ending = (tensor for stored, tensor in entries.items() if stored.endswith(f".{name}"))
    return entries[name] if name in entries else next(ending, None)


def _type_of_scaled_weight(name: str, entries: Mapping[str, StoredTensor]) -> str | None:
    """Return the stored type, such as "F8_E4M3", of the weight to which a tensor is the scale. Return None if the
    tensor's name is not that of a scale, or if the type of the layer's weight needs no scale."""
    layer, _, last = name.rpartition(".")
    if not any(scale in last for scale in SCALES):
        return None
    weights = (entries[each].dtype for each in (f"{layer}.weight", layer) if each in entries)
    return next((dtype for dtype in weights if dtype not in WIDE), None)


def _missing_weights(
    network: nn.Module, home: Path, missing: Sequence[str], entries: Mapping[str, StoredTensor], unread: Iterable[str]
) -> UserError:
    """Return the error for missing weights. Its fix differs if all stored names have a prefix that the network's names
    lack, and if the files hold weights with other names, such as those of an earlier version of the class."""
    what = f"the weights in {home} have no {missing[0]!r}"
    if prefix := _wrapper_prefix(missing, entries):
        return UserError(what, f"write the weights without {prefix!r}, with which all their names begin")
    if not (others := list(unread)):
        return UserError(what, COPY_AGAIN)
    what += f", and hold {_format_names(others)}, which a {type(network).__name__} does not read"
    return UserError(what, f"name their class in its config.json, or rename them; {GIVE_PIPELINE}")


def _wrapper_prefix(missing: Iterable[str], entries: Mapping[str, StoredTensor]) -> str:
    """Return the prefix that all stored names have and the names of the missing weights lack, or ""."""
    prefix = common_prefix(entries)
    return prefix if prefix and all(prefix + name in entries for name in missing) else ""


def _same(buffer: torch.Tensor, stored: torch.Tensor) -> bool:
    """Return True if a stored tensor equals the network's buffer, such as the positions 0, 1, 2, ..."""
    return buffer.shape == stored.shape and torch.allclose(buffer.double(), stored.double(), rtol=1e-6)


def _format_names(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(map(repr, listed[:NAMED])) + more
