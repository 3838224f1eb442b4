"""IP-Adapter (Ye et al. 2023, arXiv 2308.06721): cross-attention to an image in addition to the text, by `fewstep
export --change ip_adapter:FILE`.

The file contains a projection of an image's embedding to tokens, and the weights of keys and values of these tokens for
each layer of cross-attention. Its tensors are named "image_proj.proj.weight", "image_proj.norm.weight",
"ip_adapter.1.to_k_ip.weight" and so on. Layers have the odd numbers, in the order in which the network lists its
modules.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from fewstep.export.error_text import module_name
from fewstep.export.spec import Spec
from fewstep.literature.attention.attention_calls import (
    ATTENTION,
    Attend,
    AttentionCall,
    AttentionCalls,
    attention_calls,
)
from fewstep.literature.attention.conditions import number_condition, repeat_over_rows
from fewstep.literature.rewrite import Changes, Forward, Rewrite, rewrite
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.lora.file import read_tensors

PROJECTION = ("image_proj.proj.weight", "image_proj.proj.bias", "image_proj.norm.weight", "image_proj.norm.bias")
PARTS = ("to_k_ip.weight", "to_v_ip.weight")
GIVE_PLAIN = "give an adapter for the embedding of an image, such as ip-adapter_sd15.safetensors"


@dataclass(frozen=True)
class IpAdapter:
    """The tensors of an adapter file: `projection` in the order of PROJECTION, and the weights of keys and values for
    each layer."""

    name: str
    projection: tuple[Tensor, ...]
    layers: tuple[tuple[Tensor, Tensor], ...]


def ip_adapter(module: nn.Module, spec: Spec, file: str) -> tuple[nn.Module, Spec]:
    """Return the module with the IP-Adapter of a safetensors file added to its cross-attention, and its spec with the
    adapter's conditions. Raises UserError for a file that does not fit the module."""
    adapter = read_ip_adapter(Path(file))
    across = [call for call in attention_calls(module, spec) if call.is_cross]
    return module, rewrite(module, spec, AttentionCalls, [ip_adapter_rewrite(across, module, adapter)])


def read_ip_adapter(path: Path) -> IpAdapter:
    """Read the adapter in a safetensors file. Raises UserError for a pickle, and for a file that is not an IP-Adapter
    with one projected embedding."""
    if not path.is_file():
        raise UserError(f"there is no file {path}", "check the path after ip_adapter:")
    if path.suffix != ".safetensors":
        what = f"{path.name} is not a safetensors file, and a pickle may run any code"
        raise UserError(what, "convert it to safetensors")
    arrays, _ = read_tensors(path)
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    lacking = [key for key in PROJECTION if key not in tensors]
    numbers = sorted({int(key.split(".")[1]) for key in tensors if re.match(r"ip_adapter\.\d+\.", key)})
    keys = [[f"ip_adapter.{number}.{part}" for part in PARTS] for number in numbers]
    lacking += [key for pair in keys for key in pair if key not in tensors]
    unknown = [key for key in tensors if key not in {*PROJECTION, *(key for pair in keys for key in pair)}]
    if lacking or unknown or not keys:
        said = f"has no {lacking[0]}" if lacking else f"also has {unknown[0]}" if unknown else "has no layers"
        raise UserError(f"{path.name} is not an IP-Adapter with one projected embedding: it {said}", GIVE_PLAIN)
    layers = tuple((tensors[k], tensors[v]) for k, v in keys)
    return IpAdapter(path.name, tuple(tensors[key] for key in PROJECTION), layers)


class ImageTokens(nn.Module):
    """Convert an image's embedding [B, D] to tokens [B, tokens, channels], and return their keys and values for each
    layer."""

    def __init__(self, adapter: IpAdapter) -> None:
        super().__init__()
        weight, bias, *norm = adapter.projection
        self.proj, self.norm = _linear(weight, bias), nn.LayerNorm(norm[0].shape[0])
        self.norm.load_state_dict({"weight": norm[0], "bias": norm[1]})
        self.to_k, self.to_v = (nn.ModuleList(map(_linear, each)) for each in zip(*adapter.layers, strict=True))

    def forward(self, embedding: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.proj(embedding).unflatten(-1, (-1, self.norm.normalized_shape[0])))
        return tokens


def ip_adapter_rewrite(calls: Sequence[AttentionCall], module: nn.Module, adapter: IpAdapter) -> Rewrite:
    """Return the rewrite for decoupled cross-attention: a call returns softmax(q k) v + s softmax(q k') v', where k'
    and v' depend on the image.

    The condition "image_embeds" is the image's embedding, and 0 in the unconditional branch. The condition
    "image_scale" is s, 1 by default. The module receives the adapter's weights. Raises UserError if the adapter was
    made for other layers.
    """
    order = [name for name, _ in module.named_modules()]
    calls = sorted(calls, key=lambda call: order.index(call.layer))
    widths = [(call.channels, call.channels) for call in calls]
    if widths != [(k.shape[0], v.shape[0]) for k, v in adapter.layers]:
        own = f"the {len(calls)} cross-attention layers of {module_name(module)}"
        what = f"{adapter.name} has {len(adapter.layers)} layers, which do not fit {own}"
        raise UserError(what, "give an adapter that was trained for this network")
    tokens = ImageTokens(adapter).requires_grad_(False).eval()
    module.image_tokens = tokens

    def begin(_: Forward, __: Sequence[Tensor], values: Sequence[Tensor]) -> Changes:
        embedding, scale = values
        image = tokens(embedding)

        def change(place: int, attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            both = (each[place](image) for each in (tokens.to_k, tokens.to_v))
            k_image, v_image = (tensor.unflatten(-1, (q.shape[1], -1)).transpose(1, 2) for tensor in both)
            out = attend(q, k, v)
            return out + repeat_over_rows(scale, out) * ATTENTION(q, k_image, v_image)

        return {call.number: partial(change, place) for place, call in enumerate(calls)}

    width = tokens.proj.in_features
    embeds = Condition("image_embeds", "image_embeds", (width,), "float32", null=0.0)
    return Rewrite((embeds, number_condition("image_scale", 2.0, default=1.0)), begin)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return layer
