"""Find the attention calls of a module, and what their queries, keys and values depend on.

The structure of the module need not be known: its attention ends in torch's `scaled_dot_product_attention`, and a call
is identified by its index in the order of calls. On which inputs the keys of a call depend is found from runs of the
module that differ in one input.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from fewstep.export.spec import Spec
from fewstep.export.tracing.export_errors import watch_calls
from fewstep.export.verification.points import comparison_points
from fewstep.export.verification.reference import call_module
from fewstep.graph.graph import Array, X
from fewstep.literature.rewrite import Calls, Change, suspend_rewrites
from fewstep.plans.errors import UserError

ATTENTION, MULTI_HEAD = F.scaled_dot_product_attention, F.multi_head_attention_forward
ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
MIDDLE, ALL = "middle", "all"
FORWARD = "forward"  # the layer of a call that the forward of the whole module makes

Attend = Callable[..., Tensor]  # attend(q, k, v): the call with its own mask and scale; attn_mask=... for another mask


@dataclass(frozen=True)
class AttentionCall:
    """Attention call number `number` of a module, made in its submodule `layer`.

    `follows` has the names of those inputs (x and conditions) on which its keys, values or mask depend.
    """

    number: int
    layer: str
    queries: int
    keys: int
    channels: int  # the sum over all heads
    follows: frozenset[str]

    @property
    def is_self(self) -> bool:
        """Whether the tokens of x attend to each other. The keys may contain further tokens before these."""
        return X in self.follows and self.keys >= self.queries

    @property
    def is_cross(self) -> bool:
        """Whether the tokens of x attend to keys that depend only on conditions."""
        return bool(self.follows) and not self.is_self


class AttentionCalls(Calls):
    """Calls of attention. Their operands are queries, keys and values."""

    functions = (ATTENTION, MULTI_HEAD)

    def compute(self, func: Any, *args: Any, **named: Any) -> Any:
        if func is MULTI_HEAD:  # it calls ATTENTION itself, where this mode cannot see the call
            with patch.object(F, ATTENTION.__name__, partial(self.compute, ATTENTION)):
                return func(*args, **named)
        arguments = dict(zip(ARGUMENTS, args, strict=False)) | named
        operands = [arguments.pop(name) for name in ARGUMENTS[:3]]
        return self.change(partial(ATTENTION, **arguments), *operands)


def attention_calls(module: torch.nn.Module, spec: Spec, of_x: bool = False) -> tuple[AttentionCall, ...]:
    """Return the attention calls whose queries depend on x, for a module that is called as `forward(x, time,
    *conditions)`.

    The module is run once, again with another x, and again with another value of each condition. The inputs on which a
    call depends are those that change its operands. With `of_x`, the runs for conditions are omitted. Calls that were
    already rewritten are listed as in the original module.
    """
    with suspend_rewrites(module, spec, AttentionCalls) as own:
        network = module.eval().cpu().float()
        first, second = (point.feeds for point in islice(comparison_points(own), 2))
        base = _operands(network, own, first)
        follows: dict[int, frozenset[str]] = {}
        for name in (X, *(() if of_x else (condition.input for condition in own.conditions))):
            other = _operands(network, own, {**first, name: second[name]})
            for number, (before, changed) in enumerate(zip(base, other, strict=True)):
                if name == X and _differ(before.q, changed.q):  # otherwise its queries depend on a condition only
                    follows[number] = frozenset()
                if number in follows and any(map(_differ, before.keys, changed.keys)):
                    follows[number] |= {name}
    return tuple(base[number].describe(number, names) for number, names in follows.items())


@dataclass(frozen=True)
class _Operands:
    """The operands of an attention call: the queries, and the keys with values and mask."""

    layer: str
    q: Tensor
    keys: tuple[Tensor, Tensor, Tensor | None]

    def describe(self, number: int, follows: frozenset[str]) -> AttentionCall:
        """Return the call's description. Its queries are [B, heads, tokens, channels] or [B, tokens, channels]."""
        *heads, queries, channels = self.q.shape[1:]
        return AttentionCall(number, self.layer, queries, self.keys[0].shape[-2], math.prod(heads) * channels, follows)


def _operands(module: torch.nn.Module, spec: Spec, feeds: Mapping[str, Array]) -> list[_Operands]:
    operands: list[_Operands] = []
    with watch_calls(module) as watch:

        def keep(number: int) -> Change:
            def change(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                operands.append(_Operands(watch.innermost or FORWARD, q, (k, v, mask_of(attend))))
                return attend(q, k, v)

            return change

        with AttentionCalls(keep):
            call_module(module, spec, tuple(map(torch.from_numpy, feeds.values())))
    return operands


def mask_of(attend: Attend) -> Tensor | None:
    """Return the mask of an attention call, or None."""
    mask: Tensor | None = attend.keywords.get("attn_mask")  # type: ignore[attr-defined]
    return mask


def _differ(first: Tensor | None, second: Tensor | None) -> bool:
    return first is not None and second is not None and not torch.equal(first, second)


def select_calls(
    calls: Sequence[AttentionCall], layers: Sequence[str], option: str, name: str
) -> tuple[AttentionCall, ...]:
    """Return the calls in these layers. Each layer is the name of a module or a part of one ("mid_block"), MIDDLE or
    ALL.

    MIDDLE is the layer with the fewest tokens in a U-Net. If all layers have the same number, it is the layer halfway.
    Raises UserError for an unknown layer, with a list of the known ones.
    """
    if not calls:
        what = f"{name} never calls torch's scaled_dot_product_attention, which {option} would change"
        raise UserError(what, f"leave {option} out, or write its attention with that function")
    fewest = [call for call in calls if call.queries == min(call.queries for call in calls)]
    named = {ALL: list(calls), MIDDLE: [calls[len(calls) // 2]] if len(fewest) == len(calls) else fewest}
    numbers: set[int] = set()
    for layer in layers:
        found = named.get(layer) or [call for call in calls if f".{layer}." in f".{call.layer}."]
        if not found:
            known = ", ".join(dict.fromkeys(call.layer for call in calls))
            raise UserError(
                f"{option} {layer}: {name} has no such attention layer", f"choose from {known}, middle, all"
            )
        numbers |= {call.number for call in found}
    return tuple(call for call in calls if call.number in numbers)
