"""Mutual self-attention (MasaCtrl: Cao et al. 2023, arXiv 2304.08465): `fewstep export --change masactrl:LAYERS`."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fewstep.export.spec import Spec
from fewstep.literature.attention.attention_calls import (
    Attend,
    AttentionCall,
    AttentionCalls,
    attention_calls,
    select_calls,
)
from fewstep.literature.rewrite import Changes, Forward, Rewrite, rewrite
from fewstep.runtime.bundle.manifest import Condition

MOST_BACK = 63  # largest distance from a sample back to its source, in samples


def masactrl(module: nn.Module, spec: Spec, *layers: str) -> tuple[nn.Module, Spec]:
    """Return the module with layers of self-attention that take keys and values from the sample that the condition
    "source" selects.

    layers: names of modules or parts of them, "middle" or "all" (the default). Raises UserError for an unknown layer.
    """
    own = [call for call in attention_calls(module, spec, of_x=True) if call.is_self]
    taken = select_calls(own, layers or ("all",), "masactrl", type(module).__name__)
    return module, rewrite(module, spec, AttentionCalls, [mutual_attention_rewrite(taken)])


def mutual_attention_rewrite(calls: Sequence[AttentionCall]) -> Rewrite:
    """Return the rewrite for mutual self-attention (MasaCtrl: Cao et al. 2023, arXiv 2304.08465): a sample's queries
    attend to the keys and values of an earlier sample of the same batch.

    The condition "source" says how many positions earlier in the batch that sample is; 0, the default, is the sample
    itself. If it points before the first sample, the first is used. With guidance, each branch attends only to its own
    samples.
    """

    def begin(_: Forward, __: Sequence[Tensor], values: Sequence[Tensor]) -> Changes:
        (source,) = values
        rows = (torch.arange(source.shape[0]) - source).clamp(min=0)

        def change(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attend(q, _select_samples(k, rows), _select_samples(v, rows))

        return dict.fromkeys((call.number for call in calls), change)

    condition = Condition(
        "source", "source", (), "int64", low=0, high=MOST_BACK, typical=(0, 0), shared=True, default=(0.0,)
    )
    return Rewrite((condition,), begin)


def _select_samples(each: Tensor, rows: Tensor) -> Tensor:
    """Select samples from `each`, [B, ...], or [B * parts, ...] if a sample has several rows."""
    if each.shape[0] == rows.shape[0]:
        return each.index_select(0, rows)
    return each.unflatten(0, (rows.shape[0], -1)).index_select(0, rows).flatten(0, 1)
