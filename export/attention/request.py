"""Which attention layers an export rewrites, and how: from its options to the rewritten module."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.export.spec import Spec

if TYPE_CHECKING:
    import torch

LOG = logging.getLogger("fewstep")


@dataclass(frozen=True)
class AttentionRequest:
    """Layers of self-attention to perturb or to share between samples, layers of cross-attention that lead away from a
    text, and the file of an IP-Adapter."""

    perturb: Sequence[str] = ()
    negative: Sequence[str] = ()
    mutual: Sequence[str] = ()
    ip_adapter: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.perturb or self.negative or self.mutual or self.ip_adapter)


def rewritten(module: "torch.nn.Module", spec: Spec, asked: AttentionRequest) -> tuple[Spec, list[Any]]:
    """The spec of the module, whose attention is rewritten in place, and what the rewritten one follows from.

    UserError for a layer that the module has not, or an adapter that does not fit.
    """
    from fewstep.export.attention.calls import Attending, attention_calls, chosen
    from fewstep.export.attention.ip_adapter import adaptation, read_ip_adapter
    from fewstep.export.attention.rewrite import mutuality, negation, perturbation
    from fewstep.export.rewrite import rewrite as rewrite_calls

    name = type(module).__name__
    adapter = None if asked.ip_adapter is None else read_ip_adapter(asked.ip_adapter)
    conditions = [each.input for each in spec.conditions] if asked.negative or adapter else ()
    calls = attention_calls(module, spec, conditions)
    own = [call for call in calls if call.is_self]
    across = [call for call in calls if call.follows and not call.is_self]
    rewrites, content = [], list[Any]()
    for option, layers, among, rewrite in (
        ("mutual", asked.mutual, own, mutuality),
        ("negative", asked.negative, across, lambda calls: negation(calls, spec)),
        ("perturb", asked.perturb, own, perturbation),
    ):
        if layers:
            taken = chosen(among, layers, f"--{option}", name)
            LOG.info("--%s: %s", option, ", ".join(dict.fromkeys(call.layer for call in taken)))
            rewrites.append(rewrite(taken))
            content.append({option: [call.number for call in taken]})
    if adapter is not None:
        rewrites.append(adaptation(across, module, adapter))
        content.append({"ip_adapter": adapter.sha256})
    return rewrite_calls(module, spec, Attending, rewrites), content
