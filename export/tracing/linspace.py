"""torch.linspace with a number of steps that depends on a free size.

torch.export treats the number of steps as a constant, so coordinates computed with it would fix the size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class FreeSteps(TorchFunctionMode):
    """While active, `linspace` with a free number of steps is replaced by arithmetic on `arange`.

        linspace(start, end, n)      ==>      start + i (end - start) / (n - 1)  for i = 0 .. n - 1

    The second half counts from the end, as in torch, so that the last element is `end`.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func is torch.linspace:
            given = dict(zip(("start", "end", "steps"), args, strict=False)) | named
            dtype = given.get("dtype") or torch.get_default_dtype()
            if isinstance(given.get("steps"), torch.SymInt) and dtype.is_floating_point and given.get("out") is None:
                return _linspace(**{**given, "dtype": dtype})
        return func(*args, **named)


def _linspace(start: Any, end: Any, steps: Any, dtype: torch.dtype, device: Any = None, **layout: Any) -> Tensor:
    """Return the values [steps] in `dtype`. `layout` has no influence on the graph."""
    places = torch.arange(steps, dtype=dtype, device=device)
    last = torch.sym_max(steps - 1, 1)
    from_end = end - (steps - 1 - places) * (end - start) / last
    return torch.where(2 * places < steps, start + places * (end - start) / last, from_end)
