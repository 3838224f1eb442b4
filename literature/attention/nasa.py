"""Negative-away steer attention (NASA: Nguyen et al. 2024, arXiv 2412.02687v3): `export --change nasa:LAYERS`."""

from collections.abc import Sequence
from functools import partial

import msgspec
from torch import Tensor, nn

from fewstep.export.spec import Spec
from fewstep.literature.attention.attention_calls import (
    Attend,
    AttentionCall,
    AttentionCalls,
    attention_calls,
    mask_of,
    select_calls,
)
from fewstep.literature.attention.conditions import number_condition, repeat_over_rows
from fewstep.literature.rewrite import Change, Changes, Forward, Rewrite, first_condition, rewrite
from fewstep.runtime.bundle.manifest import Condition


def nasa(module: nn.Module, spec: Spec, *layers: str) -> tuple[nn.Module, Spec]:
    """Return the module with layers of cross-attention that steer away from a negative text, with the strength
    "negative_scale".

    layers: names of modules or parts of them, "middle" or "all" (the default). Raises UserError for an unknown layer.
    """
    across = [call for call in attention_calls(module, spec) if call.is_cross]
    taken = select_calls(across, layers or ("all",), "nasa", type(module).__name__)
    return module, rewrite(module, spec, AttentionCalls, [negative_attention_rewrite(taken, spec)])


def negative_attention_rewrite(calls: Sequence[AttentionCall], spec: Spec) -> Rewrite:
    """Return the rewrite for negative-away steer attention (NASA: Nguyen et al. 2024, arXiv 2412.02687v3, equation 9):
    a call returns softmax(q k) v - a softmax(q k') v', where k' and v' are the keys and values of a negative text.

    a is the condition "negative_scale", 0 by default. Each condition that the keys depend on gets a second condition
    with the prefix "negative_". k' and v' come from a second run of the module, with the values of these conditions.
    The other results of that run are unused, so no graph contains them.
    """
    numbers = {call.number for call in calls}
    follows = frozenset[str]().union(*(call.follows for call in calls))
    places = [place for place, condition in enumerate(spec.conditions) if condition.input in follows]
    texts = [_negative_condition(spec.conditions[place]) for place in places]

    def begin(forward: Forward, inputs: Sequence[Tensor], values: Sequence[Tensor]) -> Changes:
        *negatives, scale = values
        replaced, operands = list(inputs), dict[int, tuple[Tensor, Tensor, Tensor | None]]()
        for place, negative in zip(places, negatives, strict=True):
            replaced[first_condition(spec) + place] = negative

        def keep(number: int) -> Change:
            def change(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                if number in numbers:
                    operands[number] = k, v, mask_of(attend)
                return attend(q, k, v)

            return change

        with AttentionCalls(keep):
            forward(*replaced)

        def steer_away(number: int, attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            k_away, v_away, mask = operands[number]
            out = attend(q, k, v)
            return out - repeat_over_rows(scale, out) * attend(q, k_away, v_away, attn_mask=mask)

        return {number: partial(steer_away, number) for number in operands}

    return Rewrite((*texts, number_condition("negative_scale", 1.0)), begin)


def _negative_condition(text: Condition) -> Condition:
    """Return the condition of a negative text. It is the same in all branches, and 0 by default."""
    nothing = 0.0 if text.dtype.startswith("float") else float(text.high or 0)  # for a mask, 1: all tokens are visible
    own = {"name": f"negative_{text.name}", "input": f"negative_{text.input}", "default": (nothing,)}
    return msgspec.structs.replace(text, **own, null=None, null_file=None, shared=True)
