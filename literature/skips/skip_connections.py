"""The skip connections of a U-Net, which changes of them find by watching the module run once.

No block of a library needs to be known: a skip connection is a concatenation of something with what has been computed
from it in the meantime, around the bottleneck.
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

from fewstep.export.error_text import module_name
from fewstep.export.spec import Spec
from fewstep.export.trace import TRACE_BATCH, example_inputs
from fewstep.export.verification.reference import call_module
from fewstep.literature.gradients.gradient import GradientModule
from fewstep.literature.rewrite import Calls, suspend_rewrites
from fewstep.plans.errors import UserError

CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
CHANNELS = 1  # the axis along which they are joined, [B, channels, height, width], or the last
NO_SKIPS = "leave the change out"
LEAST, MOST = 0.0, 10.0  # of a factor: beyond, it is a slip of the pen


@dataclass(frozen=True)
class Skip:
    """A skip connection: the `number`-th concatenation that the module makes, of which operand `operand` is handed
    over. Its shape, with a batch, is `shape`."""

    number: int
    operand: int
    shape: tuple[int, ...]


class ConcatCalls(Calls):
    """Concatenations, with what they join as operands."""

    functions = CONCATENATIONS

    def compute(self, func: Any, *args: Any, **named: Any) -> Any:
        operands, *rest = (named.pop("tensors"),) if "tensors" in named else args
        return self.change(lambda *tensors: func(tensors, *rest, **named), *operands)


@dataclass(frozen=True)
class _Origin:
    """The origin of a tensor: the operations that it depends on, as a set (bits of an integer, in order)."""

    operations: int = 0
    weighted: int = 0  # of these: those that multiply by a weight


@dataclass(frozen=True)
class _Bridge:
    """A concatenation of something, last made at `start`, with what has been made of it until `end`."""

    start: int
    end: int
    skip: Skip


class _Watch(TorchFunctionMode):
    """Records the origin of every tensor, without keeping the tensor."""

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
        """Note a bridge: one operand is what the other has gone on from, through layers with weights."""
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
    """The skip connections of a module that is called as `forward(x, time, *conditions)`, the innermost first.

    They are the bridges over the bottleneck, the place that most bridges cross. This leaves dense blocks out, except
    one at the bottleneck itself, which looks the same. If several places have as many, the longest bridges decide.
    UserError where there are none. The module is put in evaluation mode, on the CPU, in float32.
    """
    with suspend_rewrites(module, spec, ConcatCalls), _Watch() as watch:
        inputs = example_inputs(spec, TRACE_BATCH)
        denoiser = module.eval().cpu().float()
        if isinstance(module, GradientModule):  # the denoiser's calls are its first
            inputs, denoiser = inputs[: 2 + module.arguments], module.denoiser
        call_module(denoiser, spec, inputs)
    starts = (bridge.start for bridge in watch.bridges)
    crossing = [[bridge for bridge in watch.bridges if bridge.start <= start < bridge.end] for start in starts]
    widest = max(crossing, key=lambda bridges: (len(bridges), sum(b.end - b.start for b in bridges)), default=[])
    if not widest:
        raise UserError(f"{module_name(module)} has no skip connections that it concatenates", NO_SKIPS)
    return tuple(bridge.skip for bridge in widest)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in arguments or results, however they are nested."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))


def parse_factors(change: str, texts: Sequence[str], fix: str) -> tuple[float, ...]:
    """The numbers that a change was given, each from 0 to 10. UserError for another text."""
    try:
        numbers = tuple(map(float, texts))
    except ValueError:
        raise UserError(f"change {change} has {', '.join(texts)}", fix) from None
    for number in numbers:
        if not (math.isfinite(number) and LEAST <= number <= MOST):
            raise UserError(f"change {change} has {number}", fix)
    return numbers
