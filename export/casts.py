"""A module that casts to a dtype of its own, while its weights are float32 as export makes them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


def own_dtype(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> str | None:
    """The other dtype than float32 in the operation that fails, as "float16"; nothing where another thing fails.

    The module is called with these inputs.
    """
    watch = _Watch()
    with suppress(Exception, SystemExit), torch.no_grad(), watch:
        module(*inputs)
    others = watch.failed - {torch.float32}
    return str(others.pop()).removeprefix("torch.") if len(watch.failed) == 2 and len(others) == 1 else None


class _Watch(TorchFunctionMode):
    """Remembers the floating dtypes that the innermost failing operation was given."""

    def __init__(self) -> None:
        super().__init__()
        self.failed = set[torch.dtype]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except Exception:
            if not self.failed:
                tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
                self.failed = {each.dtype for each in tensors if each.is_floating_point()}
            raise
