"""The number of rows of a tensor, as `len` returns it, while torch traces."""

import builtins
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn


@contextmanager
def keep_free_lengths(module: nn.Module) -> Iterator[None]:
    """Inside the block, let `len` of a tensor be its size in the code of a module's classes. Python makes a number of
    what `__len__` returns, which would fix a free size."""
    names = {made.__module__ for each in module.modules() for made in type(each).__mro__}
    with ExitStack() as stack:
        for name in names - {builtins.__name__}:
            code = None if name.startswith("torch.") else sys.modules.get(name)
            if code is not None and "len" not in vars(code):
                stack.enter_context(patch.object(code, "len", _count, create=True))
        yield


def _count(value: Any) -> Any:
    return value.shape[0] if isinstance(value, Tensor) and value.dim() else builtins.len(value)
