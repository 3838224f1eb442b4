"""Find the skip connections of a U-Net by watching the module run once.

The structure of the module need not be known: a skip connection is a concatenation of a tensor with a second tensor
that was computed from it through the bottleneck.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from fewstep.export.batches import TRACE_BATCH
from fewstep.export.error_text import module_name
from fewstep.export.spec import Spec
from fewstep.export.trace import example_inputs
from fewstep.export.verification.reference import call_module
from fewstep.literature.gradients.gradient import GradientModule
from fewstep.literature.rewrite import Calls, suspend_rewrites
from fewstep.plans.errors import UserError

CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
CHANNELS = 1  # axis of the concatenation, for [B, channels, height, width], or the last axis
NO_SKIPS = "leave the change out"
LEAST, MOST = 0.0, 10.0  # range of a factor; a larger one is probably a typing error


@dataclass(frozen=True)
class Skip:
    """A skip connection, given by concatenation number `number` of the module. Operand number `operand` of it comes
    from the encoder; `shape` is the shape of that operand, including the batch."""

    number: int
    operand: int
    shape: tuple[int, ...]


class ConcatCalls(Calls):
    """Calls of concatenation. Their operands are the concatenated tensors."""

    functions = CONCATENATIONS

    def compute(self, func: Any, *args: Any, **named: Any) -> Any:
        operands, *rest = (named.pop("tensors"),) if "tensors" in named else args
        return self.change(lambda *tensors: func(tensors, *rest, **named), *operands)


@dataclass(frozen=True)
class _Origin:
    """The operations on which a tensor depends, as a set (bits of an integer, in the order of the operations)."""

    operations: int = 0
    weighted: int = 0  # the subset of operations that multiply by a weight


@dataclass(frozen=True)
class _Bridge:
    """A concatenation of two tensors of which the second was computed from the first: operation `start` computed the
    first tensor, and later operations up to `end` computed the second from it."""

    start: int
    end: int
    skip: Skip


class _Watch(TorchFunctionMode):
    """Record the origin of every tensor, without keeping the tensors in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.origins = WeakIdKeyDictionary()
        self.operations = 0
        self.concatenations = 0
        self.bridges: list[_Bridge] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        results = func(*args, **named)
        outputs = list(_tensors(results))
        if not outputs:
            return results
        inputs = list(_tensors((args, named)))
        if func in CONCATENATIONS:
            self._record_concat(inputs, outputs[0], *args[1:], **named)
        mark = 1 << self.operations
        is_weighted = any(isinstance(tensor, torch.nn.Parameter) and tensor.ndim > 1 for tensor in inputs)
        origins = [self._origin(tensor) for tensor in inputs]
        union = functools.partial(functools.reduce, int.__or__)
        origin = _Origin(
            union((o.operations for o in origins), mark),
            union((o.weighted for o in origins), mark if is_weighted else 0),
        )
        for tensor in outputs:
            self.origins[tensor] = origin
        self.operations += 1
        return results

    def _origin(self, tensor: Tensor) -> _Origin:
        return self.origins.get(tensor, _Origin())

    def _record_concat(self, operands: Sequence[Tensor], result: Tensor, *rest: Any, **named: Any) -> None:
        """Record a bridge if one operand was computed from the other through layers with weights."""
        number, self.concatenations = self.concatenations, self.concatenations + 1
        axis = rest[0] if rest else named.get("dim", named.get("axis", 0))
        if len(operands) != 2 or result.ndim < 3 or axis % result.ndim not in (CHANNELS, result.ndim - 1):
            return
        first, second = map(self._origin, operands)
        own = [(a.weighted & ~b.operations).bit_count() for a, b in ((first, second), (second, first))]
        common = first.operations & second.operations
        if common and own[0] != own[1]:
            place = own.index(min(own))
            skip = Skip(number, place, tuple(operands[place].shape))
            self.bridges.append(_Bridge(common.bit_length() - 1, self.operations, skip))


def find_skips(module: torch.nn.Module, spec: Spec) -> tuple[Skip, ...]:
    """Return the skip connections of a module that is called as `forward(x, time, *conditions)`, the innermost first.

    They are the concatenations whose operands bypass the bottleneck, which is the point in the computation that most
    connections bypass. Connections of dense blocks are thus excluded, except those of a block at the bottleneck itself,
    which look the same. If several points are bypassed by the same number of connections, the longest connections
    decide. Raises UserError if there are none. The module is put in evaluation mode, on the CPU, in float32.
    """
    with suspend_rewrites(module, spec, ConcatCalls), _Watch() as watch:
        inputs = example_inputs(spec, TRACE_BATCH)
        denoiser = module.eval().cpu().float()
        if isinstance(module, GradientModule):  # its first calls are those of the denoiser
            inputs, denoiser = inputs[: 2 + module.arguments], module.denoiser
        call_module(denoiser, spec, inputs)
    starts = (bridge.start for bridge in watch.bridges)
    crossing = [[bridge for bridge in watch.bridges if bridge.start <= start < bridge.end] for start in starts]
    widest = max(crossing, key=lambda bridges: (len(bridges), sum(b.end - b.start for b in bridges)), default=[])
    if not widest:
        raise UserError(f"{module_name(module)} concatenates no skip connections", NO_SKIPS)
    return tuple(bridge.skip for bridge in widest)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in arguments or results, in any nesting."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def parse_factors(change: str, texts: Sequence[str], fix: str) -> tuple[float, ...]:
    """Parse the numbers of a change, each from 0 to 10. Raises UserError for other text."""
    try:
        numbers = tuple(map(float, texts))
    except ValueError:
        raise UserError(f"the factors of --change {change} must be numbers, not {', '.join(texts)}", fix) from None
    for number in numbers:
        if not (math.isfinite(number) and LEAST <= number <= MOST):
            raise UserError(f"the factors of --change {change} must be from {LEAST:g} to {MOST:g}, not {number}", fix)
    return numbers
