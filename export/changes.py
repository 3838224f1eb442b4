"""Change a denoiser before it is traced: merge LoRA files, and apply the functions that `--change` names."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fewstep.export.lora.merge import merge, refuse_added_doras
from fewstep.export.lora.slots import NO_SLOTS, SlotRequest, find_slots
from fewstep.export.sources.torch_module import TorchSource, module_and_spec
from fewstep.export.spec import Source, Spec
from fewstep.plans.errors import UserError
from fewstep.plans.names.user_call import NamedCall, resolve_call
from fewstep.runtime.bundle.reading import file_sha256
from fewstep.runtime.lora.file import Lora
from fewstep.runtime.lora.keys import DENOISER

if TYPE_CHECKING:
    from torch import nn

LOG = logging.getLogger("fewstep")
CHANGED = "_changed_by_fewstep"  # attribute that marks modules which options have changed in place
RETURNS = "let it return (module, spec)"


def read_change(text: str) -> NamedCall:
    """Return the change that a value of `--change` names: a function `(module, spec, *arguments) -> (module, spec)` and
    its arguments."""
    return resolve_call("change", text, 2)


def _apply_change(change: NamedCall, module: "nn.Module", spec: Spec) -> "tuple[nn.Module, Spec]":
    """Return the module and the spec after a change."""
    return module_and_spec(change.function(module, spec, *change.arguments), f"change {change.text}", RETURNS)


def apply_changes(
    source: Source, loras: Sequence[Lora], changes: Sequence[NamedCall] = (), slots: SlotRequest = NO_SLOTS
) -> Source:
    """Return the source with these changes applied in order. Its hash includes them. The module may be changed in
    place.

    Raises UserError if the source is not a torch module, or if a change does not fit it.
    """
    if not (loras or changes or slots):
        return source
    if not isinstance(source, TorchSource):
        raise UserError(
            f"{source.label} is not a torch module, so its layers cannot be changed",
            "change the module, and export its ONNX file again",
        )
    from fewstep.export.tracing.weights.stored_halves import restore_parameters  # imports torch

    refuse_changed(source)
    restore_parameters(source.module)
    if source.spec.steers and slots:  # the backward pass would ignore them
        raise UserError(
            "--lora-slots cannot be used for a denoiser with an energy gradient", "merge the LoRA: --lora FILE"
        )
    companions = source.companions.with_loras(loras) if source.companions is not None else None
    encoders = source.companions.encoders if source.companions is not None else ()
    refuse_added_doras(source.module, loras)
    for lora in loras:
        merge(source.module, lora)  # a LoRA that does not fit changes nothing
        _mark(source.module)
        for network, count in _count_companion_layers(lora).items():
            if network not in encoders:
                LOG.warning(
                    "%s also changes %d layers of %s, which the bundle does not contain", lora.name, count, network
                )
    _mark(source.module)
    content: list[Any] = [source.sha256, [[lora.sha256, lora.strength] for lora in loras], [], []]
    module, spec = source.module, source.spec
    for change in changes:
        module, spec = _apply_change(change, module, spec)
        LOG.info("--change %s", change.text)
        content.append({"change": [change.text, *map(file_sha256, change.files)]})
    if slots:
        content.append({"lora_slots": [*slots.layers, slots.rank]})
    return replace(
        source,
        module=module,
        spec=spec,
        companions=companions,
        sha256=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
        lora_slots=find_slots(module, slots) if slots else None,
    )


def refuse_changed(source: Source) -> None:
    """Raise UserError if options have already changed the module or one of its submodules. This happens if the user's
    function returns or wraps the same module in every call."""
    if isinstance(source, TorchSource) and any(
        hasattr(layer, CHANGED) for layer in _modules_with_weights(source.module)
    ):
        raise UserError(
            f"{source.label} returns the same module each time, and options have changed it",
            "create a new one in each call",
        )


def _mark(module: "nn.Module") -> None:
    for layer in _modules_with_weights(module):
        setattr(layer, CHANGED, True)


def _modules_with_weights(module: "nn.Module") -> list["nn.Module"]:
    """Return the modules that have weights of their own. Others, such as activations, may be shared between
    networks."""
    return [layer for layer in module.modules() if any(True for _ in layer.parameters(recurse=False))]


def _count_companion_layers(lora: Lora) -> Counter[str]:
    """Return the number of layers that a LoRA file changes in each network other than the denoiser."""
    return Counter(network for network, _ in lora.updates if network != DENOISER)
