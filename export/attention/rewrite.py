"""Rewrite attention calls of a module, before it is traced, by conditions that the rewritten module takes.

The network is the former one where these conditions have their defaults. The module that is traced, and the one that
the graphs are compared with, are the rewritten one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
import torch
from torch import Tensor

from fewstep.export.attention.calls import Attend, Attending, AttentionCall, Change, mask_of
from fewstep.export.gradient import GradientModule
from fewstep.export.spec import Spec
from fewstep.plans.guidance import PERTURBED
from fewstep.runtime.bundle.manifest import Condition

MOST_BACK = 63  # samples
Changes = Mapping[int, Change]  # by the number of the attention call
Forward = Callable[..., Tensor]


@dataclass(frozen=True)
class AttentionRewrite:
    """`begin(forward, inputs, values)` gives the changes of one run: `forward` is the module's own, `inputs` are its
    (x, time, *conditions), and `values` [B, *shape] those of the rewrite's own `conditions`."""

    conditions: tuple[Condition, ...]
    begin: Callable[[Forward, Sequence[Tensor], Sequence[Tensor]], Changes]


def rewrite_attention(module: torch.nn.Module, spec: Spec, rewrites: Iterable[AttentionRewrite]) -> Spec:
    """Rewrite the module's attention, each rewrite around those before it; returns the spec with their conditions.

    Of a gradient, the denoiser's attention is rewritten, and the gradient goes through what it became.
    """
    computes = "outputs" if isinstance(module, GradientModule) else "forward"
    rewrites = tuple(rewrites)
    conditions = [condition for rewrite in rewrites for condition in rewrite.conditions]
    forward, start = getattr(module, computes), _first_condition(spec) + len(spec.conditions)

    def rewritten(*inputs: Tensor) -> Any:
        own = inputs[:start] + inputs[start + len(conditions) :]  # what is carried stands behind all conditions
        values = list(inputs[start : start + len(conditions)])
        changes = []
        for rewrite in rewrites:
            taken = [values.pop(0) for _ in rewrite.conditions]
            changes.append(rewrite.begin(forward, own, taken))
        with Attending(partial(_joined, changes)):
            return forward(*own)

    setattr(module, computes, rewritten)  # not a module around it: names of layers stay what they are
    return replace(spec, conditions=(*spec.conditions, *conditions))


def _joined(changes: Sequence[Changes], number: int) -> Change:
    """All changes of a call: the first is innermost."""

    def change(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        for each in changes:
            if number in each:
                attend = partial(each[number], attend)
        return attend(q, k, v)

    return change


def perturbation(calls: Sequence[AttentionCall]) -> AttentionRewrite:
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
            return out + spread(share, out) * (own - out)

        return dict.fromkeys((call.number for call in calls), change)

    return AttentionRewrite((setting(PERTURBED, 1.0),), begin)


def negation(calls: Sequence[AttentionCall], spec: Spec) -> AttentionRewrite:
    """Negative-away steer attention (NASA: Nguyen et al. 2024, arXiv 2412.02687v3, equation 9): a call returns
    softmax(q k) v - a softmax(q k') v', where k' and v' are the keys and values of a negative text.

    a is the condition "negative_scale", 0 by default. Each condition that the keys follow from has one more,
    "negative_" before its name. k' and v' are those of a run of the module with these in their places; the rest of that
    run leads to nothing, and no graph holds it.
    """
    numbers = {call.number for call in calls}
    follows = frozenset[str]().union(*(call.follows for call in calls))
    places = [place for place, each in enumerate(spec.conditions) if each.input in follows]
    texts = [_negative(spec.conditions[place]) for place in places]

    def begin(forward: Forward, inputs: Sequence[Tensor], values: Sequence[Tensor]) -> Changes:
        *negatives, scale = values
        replaced, kept = list(inputs), dict[int, tuple[Tensor, Tensor, Tensor | None]]()
        for place, negative in zip(places, negatives, strict=True):
            replaced[_first_condition(spec) + place] = negative

        def keep(number: int) -> Change:
            def change(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                if number in numbers:
                    kept[number] = k, v, mask_of(attend)
                return attend(q, k, v)

            return change

        with Attending(keep):
            forward(*replaced)

        def away(number: int, attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            k_away, v_away, mask = kept[number]
            out = attend(q, k, v)
            return out - spread(scale, out) * attend(q, k_away, v_away, attn_mask=mask)

        return {number: partial(away, number) for number in kept}

    return AttentionRewrite((*texts, setting("negative_scale", 1.0)), begin)


def mutuality(calls: Sequence[AttentionCall]) -> AttentionRewrite:
    """Mutual self-attention (MasaCtrl: Cao et al. 2023, arXiv 2304.08465): a sample's queries attend to the
    keys and values of another sample of the same batch.

    The condition "source" says how many places before it that sample stands; 0, the default, is the sample itself. One
    before the first is the first. With guidance, each branch attends within itself.
    """

    def begin(_: Forward, __: Sequence[Tensor], values: Sequence[Tensor]) -> Changes:
        (source,) = values
        rows = (torch.arange(source.shape[0]) - source).clamp(min=0)

        def change(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attend(q, _of_samples(k, rows), _of_samples(v, rows))

        return dict.fromkeys((call.number for call in calls), change)

    condition = Condition(
        "source", "source", (), "int64", low=0, high=MOST_BACK, typical=(0, 0), shared=True, default=(0.0,)
    )
    return AttentionRewrite((condition,), begin)


def _of_samples(each: Tensor, rows: Tensor) -> Tensor:
    """[B, ...] of these samples, or [B * parts, ...] where a sample has several."""
    if each.shape[0] == rows.shape[0]:
        return each.index_select(0, rows)
    return each.unflatten(0, (rows.shape[0], -1)).index_select(0, rows).flatten(0, 1)


def _negative(text: Condition) -> Condition:
    """The condition of a negative text. It is the same in all branches, and nothing by default."""
    nothing = 0.0 if text.dtype.startswith("float") else float(text.high or 0)  # of a mask: all tokens are seen
    own = {"name": f"negative_{text.name}", "input": f"negative_{text.input}", "default": (nothing,)}
    return msgspec.structs.replace(text, **own, null=None, null_file=None, shared=True)


def _first_condition(spec: Spec) -> int:
    """The place of the first condition among the inputs of a module: behind x and the times."""
    return 1 + len(spec.times)


def setting(name: str, high: float, default: float = 0.0) -> Condition:
    """A number from 0 to `high`, which every branch of guidance has alike unless it sets its own."""
    return Condition(name, name, (), "float32", low=0, high=high, shared=True, default=(default,))


def spread(value: Tensor, over: Tensor) -> Tensor:
    """One number for each sample [B], over [rows, ...] where a sample has one or several rows."""
    if over.shape[0] != value.shape[0]:
        value = value.repeat_interleave(over.shape[0] // value.shape[0])
    return value.reshape(-1, *[1] * (over.ndim - 1))
