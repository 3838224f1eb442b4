"""Trace a part of a call: what comes before it runs as if there were no trace, and the part may write into its tensors,
as Kandinsky 5 writes x."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _len_torch_function_stack
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from fewstep.pipelines.recording.element_map import find, is_close

FEWEST = 4  # different numbers of a value that is replaced: fewer could be in a tensor by chance


@contextmanager
def pause_trace() -> Iterator[None]:
    """While active, operations are not traced. A trace also follows functions such as `vmap`, with which encoders make
    their masks."""
    modes = [_pop_mode() for _ in range(_len_torch_function_stack())]
    try:
        with _disable_current_modes():
            yield
    finally:
        for mode in reversed(modes):
            _push_mode(mode)


class TraceOfValues(TorchFunctionMode):
    """While active, only operations on traced values are traced. Others run, so that sizes may follow from results.

    A trace refuses to change a tensor that existed before it. One into which code writes a traced value is replaced by
    a copy in all later operations. Views that were taken before the write keep the old values.

    replaced: pairs of values [*shape] by name. A tensor that contains all elements of the first one, as a picture that
    stands before x, gets those of the second one. The names of those that occurred are in `used`.
    """

    def __init__(self, replaced: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.replaced, self.used = replaced, set[str]()
        self.copies: dict[int, tuple[Tensor, Tensor]] = {}  # by the identity of the original, which is kept alive

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        args, kwargs = tuple(args), dict(kwargs or {})
        if getattr(func, "__name__", "") != "__get__":  # of a property such as the type
            args, kwargs = pytree.tree_map(self._latest, (args, kwargs))
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(map(_is_traced, tensors)):
            with pause_trace() if tensors else nullcontext():
                return func(*args, **kwargs)
        if _writes(func) and type(args[0]) is Tensor:
            self.copies[id(args[0])] = args[0], args[0].clone()
            args = (self._latest(args[0]), *args[1:])
        return func(*args, **kwargs)

    def _latest(self, value: Any) -> Any:
        if id(value) not in self.copies and type(value) is Tensor:
            for name, (known, replacement) in self.replaced.items():
                if (changed := _replace_elements(value, known, replacement)) is not None:
                    self.used.add(name)
                    self.copies[id(value)] = value, changed
        return self.copies[id(value)][1] if id(value) in self.copies else value


def _replace_elements(value: Tensor, known: Tensor, replacement: Tensor) -> Tensor | None:
    """Return a tensor with the elements of another one in place of those of `known` that are not zero; None if it lacks
    some of these."""
    with pause_trace():
        places = known.flatten().nonzero()[:, 0]
        source = known.flatten()[places][None]
        is_alike = (value.dtype, value.device) == (known.dtype, known.device)  # that of a stand-in may be "meta"
        if not is_alike or len(source.unique()) < FEWEST or not bool(torch.isin(source, value.flatten()).all()):
            return None
        elements = find(source, value[None])
        if elements is None:
            return None
        others = elements.others(value[None])
        if not is_close(elements(source, others)[0], value):
            return None
    changed: Tensor = elements(replacement.flatten().index_select(0, places)[None], others)[0]
    return changed


def _writes(func: Callable[..., Any]) -> bool:
    """Return True for a function that changes its first argument, such as `scatter_`."""
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _is_traced(value: Tensor) -> bool:
    """Return True for a tensor of a trace, which has a class of its own."""
    return type(value) not in (Tensor, nn.Parameter)
