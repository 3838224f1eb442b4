"""Trace a part of a call: what comes before it runs as if there were no trace, and the part may write into its tensors,
as Kandinsky 5 writes x."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch._C import _len_torch_function_stack
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes


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
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies: dict[int, tuple[Tensor, Tensor]] = {}  # by the identity of the original, which is kept alive

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        args, kwargs = pytree.tree_map(self._latest, (tuple(args), dict(kwargs or {})))
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(map(_is_traced, tensors)):
            with pause_trace() if tensors else nullcontext():
                return func(*args, **kwargs)
        if _writes(func) and type(args[0]) is Tensor:
            self.copies[id(args[0])] = args[0], args[0].clone()
            args = (self._latest(args[0]), *args[1:])
        return func(*args, **kwargs)

    def _latest(self, value: Any) -> Any:
        return self.copies[id(value)][1] if id(value) in self.copies else value


def _writes(func: Callable[..., Any]) -> bool:
    """Return True for a function that changes its first argument, such as `scatter_`."""
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _is_traced(value: Tensor) -> bool:
    """Return True for a tensor of a trace, which has a class of its own."""
    return type(value) not in (Tensor, nn.Parameter)
