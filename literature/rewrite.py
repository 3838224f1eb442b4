"""Change calls of a function in a module, before it is traced, by conditions that the changed module takes.

The network is the former one where these conditions have their defaults. The module that is traced, and the one that
the graphs are compared with, are the changed one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fewstep.export.spec import Spec
from fewstep.literature.gradients.gradient import GradientModule
from fewstep.runtime.bundle.manifest import Condition

Change = Callable[..., Tensor]  # of the call, which takes its operands, and of its operands
Changes = Mapping[int, Change]  # by the number of the call
Forward = Callable[..., Any]
LAYER = "_rewritten_by_fewstep"  # an attribute of a module


class Calls(TorchFunctionMode, ABC):
    """Within it `change(number)` takes the place of the calls that `computed` makes. One for each run: it counts them.

    A kind of calls is a subclass: its `functions` of torch are computed by `computed`, which ends in `change`.
    """

    functions: tuple[Any, ...] = ()

    def __init__(self, change: Callable[[int], Change]) -> None:
        super().__init__()
        self._change, self._count = change, 0

    def change(self, call: Callable[..., Tensor], *operands: Tensor) -> Tensor:
        """The next call: `call(*operands)`, or what is in its place."""
        number, self._count = self._count, self._count + 1
        return self._change(number)(call, *operands)

    @abstractmethod
    def compute(self, func: Any, *args: Any, **named: Any) -> Any:
        """The result of one of the functions."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        compute = partial(self.compute, func) if func in self.functions else func
        return compute(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Rewrite:
    """`begin(forward, inputs, values)` gives the changes of one run: `forward` is the module's own, `inputs` are its
    (x, time, *conditions), and `values` [B, *shape] are of the rewrite's own `conditions`."""

    conditions: tuple[Condition, ...]
    begin: Callable[[Forward, Sequence[Tensor], Sequence[Tensor]], Changes]


@dataclass(frozen=True)
class _Layer:
    """A rewrite of a module: `forward` and `spec` are of before, `conditions` of behind it."""

    kind: type[Calls]
    forward: Forward
    spec: Spec
    conditions: tuple[Condition, ...]
    rewrites: tuple[Rewrite, ...]


def rewrite(module: torch.nn.Module, spec: Spec, kind: type[Calls], rewrites: Sequence[Rewrite]) -> Spec:
    """Change the module's calls of a kind, each rewrite around those before it; returns the spec with their conditions.

    Of a gradient, the denoiser's calls are changed, and the gradient goes through what they became.
    """
    computes, former = _computes(module), _last(module, spec, kind)
    forward = getattr(module, computes) if former is None else former.forward
    before = spec if former is None else former.spec
    every = (*(() if former is None else former.rewrites), *rewrites)
    conditions = [condition for each in every for condition in each.conditions]
    start = first_condition(before) + len(before.conditions)

    def run_rewritten(*inputs: Tensor) -> Any:
        own = inputs[:start] + inputs[start + len(conditions) :]  # what is carried stands behind all conditions
        values = list(inputs[start : start + len(conditions)])
        changes = [each.begin(forward, own, [values.pop(0) for _ in each.conditions]) for each in every]
        with kind(partial(_join_changes, changes)):
            return forward(*own)

    setattr(module, computes, run_rewritten)  # not a module around it: names of layers stay what they are
    made = msgspec.structs.replace(before, conditions=(*before.conditions, *conditions))
    setattr(module, LAYER, _Layer(kind, forward, before, made.conditions, every))
    return made


@contextmanager
def suspend_rewrites(module: torch.nn.Module, spec: Spec, kind: type[Calls]) -> Iterator[Spec]:
    """The module as it was before its rewrites of a kind, if they were the last; yields its spec."""
    layer, computes = _last(module, spec, kind), _computes(module)
    if layer is None:
        yield spec
        return
    now = getattr(module, computes)
    setattr(module, computes, layer.forward)
    try:
        yield layer.spec
    finally:
        setattr(module, computes, now)


def _last(module: torch.nn.Module, spec: Spec, kind: type[Calls]) -> _Layer | None:
    """The rewrites of a kind that a further one joins: nothing was changed behind them."""
    layer: _Layer | None = vars(module).get(LAYER)
    return None if layer is None or (layer.kind, layer.conditions) != (kind, spec.conditions) else layer


def _computes(module: torch.nn.Module) -> str:
    return "outputs" if isinstance(module, GradientModule) else "forward"


def _join_changes(changes: Sequence[Changes], number: int) -> Change:
    """All changes of a call: the first is innermost."""

    def change(call: Callable[..., Tensor], *operands: Tensor) -> Tensor:
        for each in changes:
            if number in each:
                call = partial(each[number], call)
        return call(*operands)

    return change


def first_condition(spec: Spec) -> int:
    """The place of the first condition among the inputs of a module: behind x and the times."""
    return 1 + len(spec.times)
