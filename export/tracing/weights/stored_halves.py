"""Large weights of a torch module that stay as a checkpoint stores them, such as in bfloat16, while the module computes
in float32. Each becomes float32 for the moment in which its layer reads it.
"""

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fewstep.export.tracing.weights.mapped_weights import release_after_use
from fewstep.graph import widened

AnyModule = TypeVar("AnyModule", bound=nn.Module)
HALVES = (torch.bfloat16, torch.float16)
STORED = "stored_"  # beginning of the names of attributes
MADE_OF = "stored_of"  # attribute of a class that `_store` makes: the class of the layer before


class _HalfEmbedding(nn.Embedding):
    """Makes float32 of the rows that are read, instead of the whole table."""

    def forward(self, input: Tensor) -> Tensor:
        table = self._buffers.get(STORED + "weight")
        return super().forward(input) if table is None else nn.functional.embedding(input, table).float()


def to_float32(module: AnyModule) -> AnyModule:
    """Let a module compute in float32, on the CPU, and return it. Large weights in half precision stay as they are
    stored, in buffers; the parameter's name returns them in float32."""
    stored = [
        (layer, name)
        for layer in module.modules()
        for name, weight in layer.named_parameters(recurse=False)
        if _stays_half(layer, weight)
    ]
    for layer, name in stored:
        _store(layer, name)
    module.cpu().float()
    if stored:
        release_after_use(module)
    return module


def restore_parameters(module: nn.Module) -> None:
    """Make parameters in float32 of the weights that `to_float32` left in half precision, so that code can change
    them."""
    for layer in module.modules():
        names = _stored_names(layer)
        if names:
            layer.__class__ = vars(type(layer))[MADE_OF]
        for name in names:
            tensor = layer._buffers.pop(STORED + name)
            assert tensor is not None, "it was stored"
            layer.register_parameter(name, nn.Parameter(tensor.float(), requires_grad=False))


def stored_halves(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights that `to_float32` left in half precision, by the names of the parameters."""
    for path, layer in module.named_modules():
        for name in _stored_names(layer):
            yield f"{path}.{name}".lstrip("."), layer.get_buffer(STORED + name)


def count_weights(module: nn.Module) -> int:
    """Return the number of weights of a module."""
    others = sum(tensor.numel() for _, tensor in stored_halves(module))
    return others + sum(tensor.numel() for tensor in module.parameters())


def _stays_half(layer: nn.Module, weight: Tensor) -> bool:
    is_large = weight.ndim >= 2 and weight.nbytes >= widened.LEAST_BYTES
    return is_large and weight.dtype in HALVES and not weight.is_meta and not isinstance(layer, nn.RNNBase)


def _store(layer: nn.Module, name: str) -> None:
    """Move a parameter to a buffer, and let its name return it in float32. torch.export computes with values of other
    attributes, which would make all of them float32 at once."""
    layer.register_buffer(STORED + name, layer._parameters.pop(name).detach(), persistent=False)  # type: ignore[union-attr]
    made = type(layer)
    if STORED not in vars(made):
        content = {STORED: (), MADE_OF: made, "__module__": made.__module__, "_apply": _apply_to_others}
        made = type(made.__name__, _bases(layer), content)
        layer.__class__ = made
    setattr(made, name, property(lambda own: own._buffers[STORED + name].float()))
    setattr(made, STORED, (*vars(made)[STORED], name))


def _bases(layer: nn.Module) -> tuple[type[nn.Module], ...]:
    """Return the bases of the class that `_store` makes. `_HalfEmbedding` comes before nn.Embedding in its order."""
    if not isinstance(layer, nn.Embedding) or layer.max_norm is not None:
        return (type(layer),)
    return (_HalfEmbedding,) if type(layer) is nn.Embedding else (type(layer), _HalfEmbedding)


def _apply_to_others(layer: Any, function: Any, recurse: bool = True) -> Any:
    """Convert a layer's tensors except those that stay as they are stored."""
    kept = {STORED + name: layer._buffers.pop(STORED + name) for name in _stored_names(layer)}
    super(type(layer), layer)._apply(function, recurse)
    layer._buffers.update(kept)
    return layer


def _stored_names(layer: nn.Module) -> tuple[str, ...]:
    names: Any = vars(type(layer)).get(STORED, ())
    return tuple(names)
