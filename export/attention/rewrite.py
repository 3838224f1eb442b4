"""Other arithmetic in the place of attention calls, led by conditions."""

from collections.abc import Sequence
from functools import partial

import msgspec
import torch
from torch import Tensor

from fewstep.export.attention.calls import Attend, Attending, AttentionCall, mask_of
from fewstep.export.rewrite import Change, Changes, Forward, Rewrite, first_condition
from fewstep.export.spec import Spec
from fewstep.plans.guidance import PERTURBED
from fewstep.runtime.bundle.manifest import Condition

MOST_BACK = 63  # samples


def perturbation(calls: Sequence[AttentionCall]) -> Rewrite:
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

    return Rewrite((setting(PERTURBED, 1.0),), begin)


def negation(calls: Sequence[AttentionCall], spec: Spec) -> Rewrite:
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
            replaced[first_condition(spec) + place] = negative

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

    return Rewrite((*texts, setting("negative_scale", 1.0)), begin)


def mutuality(calls: Sequence[AttentionCall]) -> Rewrite:
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
    return Rewrite((condition,), begin)


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


def setting(name: str, high: float, default: float = 0.0) -> Condition:
    """A number from 0 to `high`, which every branch of guidance has alike unless it sets its own."""
    return Condition(name, name, (), "float32", low=0, high=high, shared=True, default=(default,))


def spread(value: Tensor, over: Tensor) -> Tensor:
    """One number for each sample [B], over [rows, ...] where a sample has one or several rows."""
    if over.shape[0] != value.shape[0]:
        value = value.repeat_interleave(over.shape[0] // value.shape[0])
    return value.reshape(-1, *[1] * (over.ndim - 1))
