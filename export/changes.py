"""What is changed in a denoiser before it is traced: LoRA merged, skip connections tuned, attention rewritten."""

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fewstep.export.attention.request import AttentionRequest, rewritten
from fewstep.export.lora.merge import merge
from fewstep.export.lora.slots import SlotRequest, slots_of
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Source
from fewstep.plans.errors import UserError
from fewstep.runtime.lora.file import Lora
from fewstep.runtime.lora.keys import DENOISER

if TYPE_CHECKING:
    from torch import nn

LOG = logging.getLogger("fewstep")
FREEU = "give b1,b2,s1,s2, as in 1.5,1.6,0.9,0.2"
NO_REWRITE, NO_SLOTS = AttentionRequest(), SlotRequest()
CHANGED = "_changed_by_fewstep"  # marks the modules of a network that options have changed in place
LEAST, MOST = 0.0, 10.0  # of a factor: beyond, it is a slip of the pen


def changed(
    source: Source,
    loras: Sequence[Lora],
    skip_scale: Sequence[float],
    freeu: Sequence[float],
    attention: AttentionRequest = NO_REWRITE,
    slots: SlotRequest = NO_SLOTS,
) -> Source:
    """The source with these changes, which its hash covers. Its module is changed in place.

    UserError if it is no torch module, or if one of them does not fit it.
    """
    if not (loras or skip_scale or freeu or attention or slots):
        return source
    _check("--skip-scale", skip_scale, "give numbers around 1, as in 0.8,1")
    _check("--freeu", freeu, FREEU)
    if freeu and len(freeu) != 4:
        raise UserError(f"--freeu has {len(freeu)} numbers", FREEU)
    if not isinstance(source, TorchSource):
        raise UserError(
            f"{source.label} is no torch module, whose layers could be changed",
            "change the module, and export its ONNX file again",
        )
    refuse_changed(source)
    if source.spec.steers and slots:  # the backward pass would not know of them
        raise UserError("--lora-slots for a denoiser with a gradient", "merge the LoRA: --lora FILE")
    beside = source.beside.with_loras(loras) if source.beside is not None else None
    encoders = source.beside.encoders if source.beside is not None else ()
    for lora in loras:
        merge(source.module, lora)  # one that does not fit changes nothing
        _mark(source.module)
        for network, count in _beside(lora).items():
            if network not in encoders:
                LOG.warning(
                    "%s also changes %d layers of %s, which the bundle does not hold", lora.name, count, network
                )
    _mark(source.module)
    if skip_scale or freeu:
        from fewstep.export.skips import FreeU, tune_skips

        backbone_and_skip = FreeU((freeu[0], freeu[1]), (freeu[2], freeu[3])) if freeu else None
        skips = tune_skips(source.module, source.spec, skip_scale, backbone_and_skip)
        LOG.info(
            "%d skip connections: %s", len(skips), ", ".join(f"{list(c.skip.shape[1:])} x {c.scale:g}" for c in skips)
        )
    merged = [[lora.sha256, lora.strength] for lora in loras]
    content: list[Any] = [source.sha256, merged, list(skip_scale), list(freeu)]
    spec = source.spec
    if attention:
        spec, changes = rewritten(source.module, spec, attention)
        content += changes
    if slots:
        content.append({"lora_slots": [*slots.layers, slots.rank]})
    return replace(
        source,
        spec=spec,
        beside=beside,
        sha256=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
        lora_slots=slots_of(source.module, slots) if slots else None,
    )


def refuse_changed(source: Source) -> None:
    """UserError for a module that options have changed before, in whole or in part: its maker returns one module, or
    wraps one, however often it is called."""
    if isinstance(source, TorchSource) and any(hasattr(each, CHANGED) for each in _with_weights(source.module)):
        raise UserError(
            f"{source.label} returns one module each time, which options have changed", "make a new one in each call"
        )


def _mark(module: "nn.Module") -> None:
    for each in _with_weights(module):
        setattr(each, CHANGED, True)


def _with_weights(module: "nn.Module") -> list["nn.Module"]:
    """The modules inside with weights of their own. Networks may share those without, such as an activation."""
    return [each for each in module.modules() if any(True for _ in each.parameters(recurse=False))]


def _beside(lora: Lora) -> Counter[str]:
    """How many layers of networks other than the denoiser a file changes."""
    return Counter(network for network, _ in lora.updates if network != DENOISER)


def _check(option: str, values: Sequence[float], fix: str) -> None:
    for value in values:
        if not (math.isfinite(value) and LEAST <= value <= MOST):
            raise UserError(f"{option} has {value}", fix)
