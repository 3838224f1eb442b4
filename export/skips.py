"""Two changes of a U-Net's skip connections that cost no training, made in the module before it is traced.

Skip-Tuning (Ma et al. 2024, arXiv 2402.15170) scales what the encoder hands to the decoder, for sampling in few steps.
FreeU (Si et al. 2023, arXiv 2309.11497) amplifies half of the decoder's channels at its two lowest resolutions, and
scales the lowest frequencies of the skips there.

No block of a library needs to be known: a skip connection is a concatenation of something with what has been computed
from it in the meantime, around the bottleneck. It is found by watching the module run once, and changed whenever it
runs from then on: the module that is traced, and the one that the graphs are compared with, are the changed one.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from fewstep.export.error_text import module_name
from fewstep.export.gradient import GradientModule
from fewstep.export.rewrite import Calls, Rewrite, rewrite
from fewstep.export.spec import Spec
from fewstep.export.trace import TRACE_BATCH, example_inputs
from fewstep.export.verification.reference import call
from fewstep.plans.errors import UserError

CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
CHANNELS = 1  # the axis of what FreeU changes, [B, channels, height, width]
FREEU_RESOLUTIONS = 2  # from the lowest on
NO_SKIPS = "leave --skip-scale and --freeu out"


@dataclass(frozen=True)
class FreeU:
    """`backbone` multiplies the first half of the decoder's channels, `skip` the low frequencies of what is handed to
    it: two numbers each, for the lowest resolution and the next."""

    backbone: tuple[float, float]
    skip: tuple[float, float]


@dataclass(frozen=True)
class Skip:
    """A skip connection: the `number`-th concatenation that the module makes, of which operand `operand` is handed
    over. Its shape, with a batch, is `shape`."""

    number: int
    operand: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """What is done to one skip connection. 1.0 does nothing."""

    skip: Skip
    scale: float = 1.0
    backbone: float = 1.0
    low: float = 1.0

    def apply(self, join: Callable[..., Tensor], *operands: Tensor) -> Tensor:
        """The concatenation of these operands [B, channels, ...], changed."""
        place = self.skip.operand
        skip, backbone = operands[place], operands[1 - place]
        if self.low != 1.0:
            skip = scale_low_frequencies(skip, self.low)
        if self.scale != 1.0:
            skip = skip * self.scale
        if self.backbone != 1.0:
            channels = torch.arange(backbone.shape[CHANNELS]).reshape(-1, *[1] * (backbone.ndim - CHANNELS - 1))
            backbone = backbone * torch.where(channels < backbone.shape[CHANNELS] // 2, self.backbone, 1.0)
        return join(skip, backbone) if place == 0 else join(backbone, skip)


def tune_skips(
    module: torch.nn.Module, spec: Spec, scales: Sequence[float] = (), freeu: FreeU | None = None
) -> tuple[Change, ...]:
    """Change the module's skip connections, from the innermost outwards; returns what is done to each.

    `scales` are spread evenly over them, with straight lines between: one number holds for all, two go from the
    innermost to the outermost. UserError if the module has no skip connection, or fewer than there are numbers.
    """
    skips = find_skips(module, spec)
    if len(scales) > len(skips):
        raise UserError(
            f"--skip-scale has {len(scales)} numbers, and {module_name(module)} has {len(skips)} skip connections",
            "give as many, or fewer",
        )
    changes = tuple(_changes(skips, scales or (1.0,), freeu, module_name(module)))
    applied = {change.skip.number: change.apply for change in changes}
    rewrite(module, spec, Joining, [Rewrite((), lambda *_: applied)])
    return changes


def _changes(skips: Sequence[Skip], scales: Sequence[float], freeu: FreeU | None, name: str) -> Iterator[Change]:
    places = np.linspace(0, 1, len(skips)), np.linspace(0, 1, len(scales))
    resolutions = list(dict.fromkeys(skip.shape[CHANNELS + 1 :] for skip in skips))
    for skip, scale in zip(skips, np.interp(*places, scales), strict=True):
        stage = resolutions.index(skip.shape[CHANNELS + 1 :])
        if freeu is None or stage >= FREEU_RESOLUTIONS:
            yield Change(skip, float(scale))
            continue
        if len(skip.shape) != CHANNELS + 3:
            raise UserError(f"--freeu is for images, and {name} hands over {list(skip.shape[1:])}", "leave --freeu out")
        yield Change(skip, float(scale), freeu.backbone[stage], freeu.skip[stage])


def scale_low_frequencies(x: Tensor, scale: float) -> Tensor:
    """x [B, C, H, W] with its frequencies 0 and -1 along each axis multiplied by `scale`, real part: FreeU's filter
    with threshold 1, as products with the few waves that it changes."""
    height, width = x.shape[-2:]
    rows, columns = _angles(height)[:, None], _angles(width)[None, :]
    phases = []
    if height > 1:  # else its frequency -1 is 0
        phases.append(rows)
    if width > 1:
        phases.append(columns)
    if height > 1 and width > 1:
        phases.append(rows + columns)
    waves = [torch.ones(height, width)]
    waves += [wave(phase).expand(height, width) for phase in phases for wave in (torch.cos, torch.sin)]
    basis = torch.stack(waves).flatten(1)  # [at most 7, H W]: a plain product, too narrow to become int8
    low = (x.flatten(2) @ basis.T) @ (basis * (scale - 1) / basis[0].sum())
    return x + low.reshape(x.shape)


def _angles(size: int) -> Tensor:
    """[size], from 0 up to 2 pi. The size is counted: where it is free, torch.onnx takes no number made of it."""
    return torch.arange(size) / torch.ones(size).sum() * (2 * math.pi)


class Joining(Calls):
    """Concatenations, with what they join as operands."""

    functions = CONCATENATIONS

    def computed(self, func: Any, *args: Any, **named: Any) -> Any:
        operands, *rest = (named.pop("tensors"),) if "tensors" in named else args
        return self.change(lambda *tensors: func(tensors, *rest, **named), *operands)


# Finding them


@dataclass(frozen=True)
class _Origin:
    """How a tensor was made: what it depends on, as a set of operations (bits of an integer, in order)."""

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
            self._concatenated(inputs, outputs[0], *args[1:], **named)
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

    def _concatenated(self, operands: Sequence[Tensor], result: Tensor, *rest: Any, **named: Any) -> None:
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
    module.eval().cpu().float()
    with _Watch() as watch:
        inputs = example_inputs(spec, TRACE_BATCH)
        if isinstance(module, GradientModule):  # the denoiser's calls are its first
            inputs, module = inputs[: 2 + module.arguments], module.denoiser
        call(module, spec, inputs)
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
