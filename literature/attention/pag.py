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
    """The module whose layers of self-attention are perturbed where the condition "perturbed" is 1.

    layers: names of modules or parts of them, "middle" (the default) or "all". UserError for one that it has not.
    """
    calls = [call for call in attention_calls(module, spec, of_x=True) if call.is_self]
    taken = select_calls(calls, layers or ("middle",), "pag", type(module).__name__)
    return module, rewrite(module, spec, AttentionCalls, [perturbation_rewrite(taken)])


def perturbation_rewrite(calls: Sequence[AttentionCall]) -> Rewrite:
    """The perturbation of perturbed-attention guidance (Ahn et al. 2024, arXiv 2403.17377, equation 14): the attention
    map becomes the identity, so that the output of a call is v, or softmax(q k) v + m (v - softmax(q k) v).

    m is the condition "perturbed", in [0, 1] and 0 by default. Where further tokens stand before a call's keys, v is
    of the last ones, as many as there are queries.
    """

    def begin(_: Forward, __: Sequence[Tensor], values: Sequence[Tensor]) -> Changes:
        (share,) = values

        def change(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out = attend(q, k, v)
            last = v[..., -q.shape[-2] :, :]
            if last.ndim > 3 and last.shape[1] != q.shape[1]:  # heads that share keys and values
                last = last.repeat_interleave(q.shape[1] // last.shape[1], dim=1)
            return out + repeat_over_rows(share, out) * (last - out)

        return dict.fromkeys((call.number for call in calls), change)

    return Rewrite((number_condition(PERTURBED, 1.0),), begin)
