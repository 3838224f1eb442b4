"""Refuse modules that torch.export cannot trace: without Python code, without float weights, without values, with
tensors of inference mode, or with nested tensors."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from fewstep.plans.errors import UserError

QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")


def check_traceable(module: torch.nn.Module) -> None:
    """Raise UserError naming the first submodule or weight that makes tracing impossible."""
    for name, inner in module.named_modules():
        who = f"{name} ({_class_name(inner)}) of {_class_name(module)}" if name else _class_name(module)
        if isinstance(inner, torch.jit.ScriptModule):
            what = f"{who} is a TorchScript module (torch.jit), which has no Python code to trace"
            raise UserError(what, "return the original Python module with its weights")
        if _is_quantized(inner):
            what = f"{who} is quantized already"
            raise UserError(what, "return the float module; fewstep calibrate quantizes the exported bundle")
        for weight, tensor in _own_weights(inner):
            full = f"{name}.{weight}" if name else weight
            if is_lazy(tensor):
                raise UserError(
                    f"weight {full!r} of {who} has no shape yet", "call the module once, or load its weights"
                )
            if tensor.is_meta:
                what = f"weight {full!r} of {_class_name(module)} is on the meta device, which holds no values"
                raise UserError(what, "load its weights: load_state_dict(..., assign=True), and no device_map")
        for tensor_name, tensor in (*_own_weights(inner), *_other_tensors(inner)):
            if tensor.is_inference():
                what = f"{tensor_name!r} of {who} was created in torch.inference_mode, and cannot be traced"
                raise UserError(what, "build the module outside of it; torch.no_grad() saves the same memory")


@contextmanager
def refuse_nested_tensors(module: nn.Module) -> Iterator[None]:
    """Inside the block, raise UserError when a TransformerEncoder is called with a mask from which it makes nested
    tensors. Its outputs at masked positions are then 0 if each mask is True at the end only, and other numbers
    otherwise, as in training; the graph would have the latter."""

    def check(name: str, encoder: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not torch.backends.mha.get_fastpath_enabled():
            return
        passed = inspect.signature(encoder.forward).bind(*given, **named).arguments
        if passed.get("src_key_padding_mask") is not None and passed.get("mask") is None:
            what = f"{name or 'it'} (TransformerEncoder) of {_class_name(module)} makes nested tensors of its mask"
            fix = "build it with enable_nested_tensor=False, or set use_nested_tensor = False on it"
            raise UserError(f"{what}, which ONNX does not have", fix)

    handles = [
        layer.register_forward_pre_hook(
            lambda encoder, given, named, name=name: check(name, encoder, given, named), with_kwargs=True
        )
        for name, layer in module.named_modules()
        if isinstance(layer, nn.TransformerEncoder) and getattr(layer, "use_nested_tensor", False)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_quantized(module: torch.nn.Module) -> bool:
    return type(module).__module__.startswith(QUANTIZED) or any(
        weight.is_quantized for _, weight in _own_weights(module)
    )


def _own_weights(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the parameters and buffers of a module, without those of submodules."""
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _other_tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the attributes of a module that are tensors, but neither parameters nor buffers."""
    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor):
            yield name, value


def _class_name(module: torch.nn.Module) -> str:
    """Return the class of a module; for a TorchScript module, its original class."""
    return str(getattr(module, "original_name", type(module).__name__))
