"""The noise that a scheduler draws in its steps."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


@contextmanager
def keep_draws(scheduler: type) -> Iterator[list[Array]]:
    """Keep the noise that the steps of a scheduler draw, by the function `randn_tensor` of its module."""
    kept: list[Array] = []
    owner: Any = scheduler
    module, step = sys.modules[scheduler.__module__], owner.step
    original, is_step = getattr(module, "randn_tensor", None), [False]
    if original is None:
        yield kept
        return

    def drawing(*args: Any, **kwargs: Any) -> Any:
        drawn = original(*args, **kwargs)
        if is_step[0]:  # a pipeline of the same module draws its first x
            kept.append(drawn.numpy())
        return drawn

    @wraps(step)
    def stepping(*args: Any, **kwargs: Any) -> Any:
        is_step[0] = True
        try:
            return step(*args, **kwargs)
        finally:
            is_step[0] = False

    with patch.object(module, "randn_tensor", drawing), patch.object(owner, "step", stepping):
        yield kept
