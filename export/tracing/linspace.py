"""torch.linspace with a number of steps that depends on a free size.

torch.export treats the number of steps as a constant, so coordinates computed with it would fix the size.
"""

from typing import Any

import torch
from torch import Tensor


def linspace(start: Any, end: Any, steps: Any, *, dtype: torch.dtype | None = None, **layout: Any) -> Tensor:
    """Return evenly spaced values [steps]. A free number of steps is replaced by arithmetic on `arange`.

        linspace(start, end, n)      ==>      start + i (end - start) / (n - 1)  for i = 0 .. n - 1

    The second half counts from the end, as in torch, so that the last element is `end`.
    """
    own, is_free = dtype or torch.get_default_dtype(), isinstance(steps, torch.SymInt)
    if not is_free or not own.is_floating_point:
        return torch.linspace(start, end, steps, dtype=dtype, **layout)
    places = torch.arange(steps, dtype=own, device=layout.get("device"))
    last = torch.sym_max(steps - 1, 1)
    from_end = end - (steps - 1 - places) * (end - start) / last
    return torch.where(2 * places < steps, start + places * (end - start) / last, from_end)
