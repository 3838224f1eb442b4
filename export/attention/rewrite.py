"""Rewrite attention calls of a module, before it is traced, by conditions that the rewritten module takes.

The network is the former one where these conditions have their defaults. The module that is traced, and the one that
the graphs are compared with, are the rewritten one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fewstep.export.attention.calls import Attend, Attending, AttentionCall, Change
from fewstep.export.spec import Spec
from fewstep.plans.guidance import PERTURBED
from fewstep.runtime.bundle.manifest import Condition

Changes = Mapping[int, Change]  # by the number of the attention call
Forward = Callable[..., Tensor]


@dataclass(frozen=True)
class AttentionRewrite:
    """`begin(forward, inputs, values)` gives the changes of one run: `forward` is the module's own, `inputs` are its
    (x, time, *conditions), and `values` [B, *shape] those of the rewrite's own `conditions`."""

    conditions: tuple[Condition, ...]
    begin: Callable[[Forward, Sequence[Tensor], Sequence[Tensor]], Changes]


def rewrite_attention(module: torch.nn.Module, spec: Spec, rewrites: Iterable[AttentionRewrite]) -> Spec:
    """Rewrite the module's attention, each rewrite around those before it; returns the spec with their conditions."""
    rewrites = tuple(rewrites)
    conditions = [condition for rewrite in rewrites for condition in rewrite.conditions]
    forward = module.forward

    def rewritten(*inputs: Tensor) -> Any:
        own, values = inputs[: len(inputs) - len(conditions)], list(inputs[len(inputs) - len(conditions) :])
        changes = []
        for rewrite in rewrites:
            taken = [values.pop(0) for _ in rewrite.conditions]
            changes.append(rewrite.begin(forward, own, taken))
        with Attending(partial(_joined, changes)):
            return forward(*own)

    module.forward = rewritten  # not a module around it: names of layers stay what they are
    return replace(spec, conditions=(*spec.conditions, *conditions))


def _joined(changes: Sequence[Changes], number: int) -> Change:
    """All changes of a call: the first is innermost."""

    def change(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        for each in changes:
            if number in each:
                attend = partial(each[number], attend)
        return attend(q, k, v)

    return change


def perturbation(calls: Iterable[AttentionCall]) -> AttentionRewrite:
    """The perturbation of perturbed-attention guidance (Ahn et al. 2024, arXiv 2403.17377, equation 14): the attention
    map becomes the identity, so that the output of a call is v, or softmax(q k) v + m (v - softmax(q k) v).

    m is the condition "perturbed", in [0, 1] and 0 by default. Where further tokens stand before a call's keys, v is
    that of the last ones, as many as there are queries.
    """

    def begin(_: Forward, __: Sequence[Tensor], values: Sequence[Tensor]) -> Changes:
        (share,) = values

        def change(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out = attend(q, k, v)
            own = v[..., -q.shape[-2] :, :]
            if own.ndim > 3 and own.shape[1] != q.shape[1]:  # heads that share keys and values
                own = own.repeat_interleave(q.shape[1] // own.shape[1], dim=1)
            return out + _spread(share, out) * (own - out)

        return dict.fromkeys((call.number for call in calls), change)

    return AttentionRewrite((_setting(PERTURBED, 1.0),), begin)


def _setting(name: str, high: float) -> Condition:
    """A number from 0, its default, to `high`, which every branch of guidance has alike unless it sets its own."""
    return Condition(name, name, (), "float32", low=0, high=high, shared=True, default=(0.0,))


def _spread(value: Tensor, over: Tensor) -> Tensor:
    """One number for each sample [B], over [rows, ...] where a sample has one or several rows."""
    if over.shape[0] != value.shape[0]:
        value = value.repeat_interleave(over.shape[0] // value.shape[0])
    return value.reshape(-1, *[1] * (over.ndim - 1))
