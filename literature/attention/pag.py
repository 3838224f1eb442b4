"""Perturbed-attention guidance (Ahn et al. 2024, arXiv 2403.17377): `fewstep export --change pag:LAYERS`, then
`--guidance pag:SCALE`."""

from collections.abc import Sequence

from torch import Tensor, nn

from fewstep.export.spec import Spec
from fewstep.literature.attention.attention_calls import (
    Attend,
    AttentionCall,
    AttentionCalls,
    attention_calls,
    select_calls,
)
from fewstep.literature.attention.conditions import number_condition, repeat_over_rows
from fewstep.literature.rewrite import Changes, Forward, Rewrite, rewrite
from fewstep.plans.guidance import PERTURBED


def pag(module: nn.Module, spec: Spec, *layers: str) -> tuple[nn.Module, Spec]:
    """Return the module with layers of self-attention that are perturbed where the condition "perturbed" is 1.

    layers: names of modules or parts of them, "middle" (the default) or "all". Raises UserError for an unknown layer.
    """
    calls = [call for call in attention_calls(module, spec, of_x=True) if call.is_self]
    taken = select_calls(calls, layers or ("middle",), "pag", type(module).__name__)
    return module, rewrite(module, spec, AttentionCalls, [perturbation_rewrite(taken)])


def perturbation_rewrite(calls: Sequence[AttentionCall]) -> Rewrite:
    """Return the rewrite for perturbed-attention guidance (Ahn et al. 2024, arXiv 2403.17377, equation 14): the
    attention map becomes the identity, so that a call returns v.

    In general it returns softmax(q k) v + m (v - softmax(q k) v), where m is the condition "perturbed", from 0 (the
    default) to 1. If the keys contain further tokens before those of x, v is taken from the last tokens, one for each
    query.
    """

    def begin(_: Forward, __: Sequence[Tensor], values: Sequence[Tensor]) -> Changes:
        (share,) = values

        def change(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out = attend(q, k, v)
            last = v[..., -q.shape[-2] :, :]
            if last.ndim > 3 and last.shape[1] != q.shape[1]:  # query heads that share the keys and values of one head
                last = last.repeat_interleave(q.shape[1] // last.shape[1], dim=1)
            return out + repeat_over_rows(share, out) * (last - out)

        return dict.fromkeys((call.number for call in calls), change)

    return Rewrite((number_condition(PERTURBED, 1.0),), begin)
