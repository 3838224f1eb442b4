"""A network called with one sample, for all samples of a batch at once.

Code that loops over the samples of a batch, or makes a list of them, would fix the batch in a trace. Here it gets
tensors of one sample, each of which stands for those of all samples (`Sample`). What a mask selects has no fixed size
(`selections`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from fewstep.export.tracing.samples.rules import apply_rule
from fewstep.export.tracing.samples.sample import Sample, hold

Sample.apply_rule = staticmethod(apply_rule)
Functions = frozenset[Callable[..., Any]]
LISTS: Functions = frozenset([torch.tensor])  # functions that make constants of numbers
CREATES: Functions = LISTS | {torch.zeros, torch.ones, torch.full, torch.arange}


@contextmanager
def call_with_one_sample(module: nn.Module, creates: Functions = CREATES) -> Iterator[None]:
    """Inside the block, call the module's own code with one sample, and return what it returns for a batch.

    creates: functions whose results keep their values, on which code may branch. Code that writes weights to the result
    of torch.zeros is traced with `LISTS` only.
    """
    own = module.forward

    @wraps(own)
    def forward(*inputs: Tensor) -> Any:
        batch = inputs[0].shape[0]
        with _Values(batch, creates):
            returned = own(*(Sample(value.unsqueeze(1)) for value in inputs))
            return pytree.tree_map_only(Tensor, lambda tensor: hold(tensor, batch)[:, 0], returned)

    with patch.object(module, "forward", forward):
        yield


@contextmanager
def use_training_form(module: nn.Module, name: str | None) -> Iterator[None]:
    """Inside the block, let a submodule and all others of its class compute as in training, unless the name is None.

    Experts that collect their tokens with numpy for inference select them by masks in training, which has equal
    results. Their own submodules do not change.
    """
    kind = None if name is None else type(module.get_submodule(name))
    changed = [layer for layer in module.modules() if type(layer) is kind and not layer.training]
    for sample in changed:
        sample.training = True
    try:
        yield
    finally:
        for sample in changed:
            sample.training = False


class _Values(TorchFunctionMode):
    """Functions of tensors of no sample: constants keep their values, on which code may branch, and masks select
    elements as those of samples do."""

    def __init__(self, batch: Any, creates: Functions) -> None:
        super().__init__()
        self.batch, self.creates = batch, creates

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        tensors = [leaf for leaf in pytree.tree_leaves([args, named]) if isinstance(leaf, Tensor)]
        makes_constant = func in self.creates and not any(map(_is_symbol, pytree.tree_leaves([args, named])))
        if (tensors or makes_constant) and all(map(_is_known, tensors)):
            with _disable_current_modes():
                return func(*args, **named)
        if func is Tensor.__getitem__:
            args = (args[0], _read_numbers(args[1]))
        if func is Tensor.__getitem__ and isinstance(args[1], Tensor) and args[1].dtype == torch.bool:
            if _is_known(args[1]) and args[1].dim() == 1:
                with _disable_current_modes():
                    places = args[1].nonzero().flatten()
                return func(args[0], places)
            return func(self._as_sample(args[0]), self._as_sample(args[1]))
        return func(*args, **named)

    def _as_sample(self, value: Tensor) -> Sample:
        return value if isinstance(value, Sample) else Sample(hold(value, self.batch))


def _read_numbers(key: Any) -> Any:
    """Return an index with constants as the limits of its slices as numbers."""
    if isinstance(key, tuple):
        return tuple(map(_read_numbers, key))
    if not isinstance(key, slice):
        return key
    limits = (key.start, key.stop, key.step)
    return slice(*(int(limit) if isinstance(limit, Tensor) and _is_known(limit) else limit for limit in limits))


def _is_symbol(value: Any) -> bool:
    return isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool)


def _is_known(tensor: Tensor) -> bool:
    """Return True for a constant, whose values are known while torch traces."""
    return not isinstance(tensor, FakeTensor | Sample | nn.Parameter)
