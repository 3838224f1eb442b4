"""Replace calls of a function in a module before it is traced, with conditions that control the replacement.

With the default values of these conditions, the network computes the same as before. The changed module is the one that
is traced, and that the graphs are compared with.
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

Change = Callable[..., Tensor]  # arguments: the call, and its operands
Changes = Mapping[int, Change]  # the key is the index of the call
Forward = Callable[..., Any]
LAYER = "_rewritten_by_fewstep"  # name of an attribute of a module


class Calls(TorchFunctionMode, ABC):
    """A context in which the calls of some torch functions are counted and replaced by `change(number)`. Since it
    counts calls, each run of the module needs a new context.

    A subclass defines which calls: `functions` are the torch functions, and `compute` evaluates a call with its
        replacement.
    """

    functions: tuple[Any, ...] = ()

    def __init__(self, change: Callable[[int], Change]) -> None:
        super().__init__()
        self._change, self._count = change, 0

    def change(self, call: Callable[..., Tensor], *operands: Tensor) -> Tensor:
        """Return the result of the next call: of `call(*operands)`, or of its replacement."""
        number, self._count = self._count, self._count + 1
        return self._change(number)(call, *operands)

    @abstractmethod
    def compute(self, func: Any, *args: Any, **named: Any) -> Any:
        """Return the result of one of `functions`, computed by its replacement."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        compute = partial(self.compute, func) if func in self.functions else func
        return compute(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Rewrite:
    """`begin(forward, inputs, values)` returns the changes of one run. `forward` is the original forward of the module,
    `inputs` are its (x, time, *conditions), and `values` [B, *shape] belong to the `conditions` of the rewrite."""

    conditions: tuple[Condition, ...]
    begin: Callable[[Forward, Sequence[Tensor], Sequence[Tensor]], Changes]


@dataclass(frozen=True)
class _Layer:
    """One rewrite of a module. `forward` and `spec` are those before the rewrite; `conditions` are those that the
    rewrite adds."""

    kind: type[Calls]
    forward: Forward
    spec: Spec
    conditions: tuple[Condition, ...]
    rewrites: tuple[Rewrite, ...]


def rewrite(module: torch.nn.Module, spec: Spec, kind: type[Calls], rewrites: Sequence[Rewrite]) -> Spec:
    """Apply rewrites to the module's calls of a kind, each around the previous ones, and return the spec with their
    conditions.

    If the module computes a gradient, the calls of its denoiser are changed, and the gradient includes the changes.
    """
    computes, former = _computes(module), _last(module, spec, kind)
    forward = getattr(module, computes) if former is None else former.forward
    before = spec if former is None else former.spec
    every = (*(() if former is None else former.rewrites), *rewrites)
    conditions = [condition for change in every for condition in change.conditions]
    start = first_condition(before) + len(before.conditions)

    def run_rewritten(*inputs: Tensor) -> Any:
        own = inputs[:start] + inputs[start + len(conditions) :]  # carried tensors come after all conditions
        values = list(inputs[start : start + len(conditions)])
        changes = [change.begin(forward, own, [values.pop(0) for _ in change.conditions]) for change in every]
        with kind(partial(_join_changes, changes)):
            return forward(*own)

    setattr(module, computes, run_rewritten)  # do not wrap the module, so that the names of its layers do not change
    made = msgspec.structs.replace(before, conditions=(*before.conditions, *conditions))
    setattr(module, LAYER, _Layer(kind, forward, before, made.conditions, every))
    return made


@contextmanager
def suspend_rewrites(module: torch.nn.Module, spec: Spec, kind: type[Calls]) -> Iterator[Spec]:
    """Within this context, the module is as it was before its rewrites of a kind, if nothing was changed after them.
    Yield its spec."""
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
    """Return the latest rewrite of a module if it is of this kind and has the same conditions, so that a new rewrite
    can be merged into it. Otherwise return None."""
    layer: _Layer | None = vars(module).get(LAYER)
    return None if layer is None or (layer.kind, layer.conditions) != (kind, spec.conditions) else layer


def _computes(module: torch.nn.Module) -> str:
    return "outputs" if isinstance(module, GradientModule) else "forward"


def _join_changes(changes: Sequence[Changes], number: int) -> Change:
    """Return the composition of all changes of a call. The first is the innermost."""

    def change(call: Callable[..., Tensor], *operands: Tensor) -> Tensor:
        for each in changes:
            if number in each:
                call = partial(each[number], call)
        return call(*operands)

    return change


def first_condition(spec: Spec) -> int:
    """Return the index of the first condition among the inputs of a module, after x and the times."""
    return 1 + len(spec.times)
