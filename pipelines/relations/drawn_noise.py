"""The noise that a scheduler draws in its steps."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import wraps
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

FUNCTION, PATH = "randn_tensor", "BrownianTreeNoiseSampler"  # in modules of schedulers
Array = NDArray[np.floating[Any]]


@contextmanager
def keep_draws(scheduler: type) -> Iterator[list[Array]]:
    """While active, record the noise that the steps of a scheduler draw, with the function `randn_tensor` of its module
    or as increments of a Brownian path. Yields the list of recorded arrays."""
    kept: list[Array] = []
    owner: Any = scheduler
    module, step, is_step = sys.modules[scheduler.__module__], owner.step, [False]

    def keep(original: Any) -> Any:
        def drawing(*args: Any, **kwargs: Any) -> Any:
            drawn = original(*args, **kwargs)
            if is_step[0]:  # a pipeline of the same module draws its first x
                kept.append(drawn.numpy().copy())
            return drawn

        return drawing

    @wraps(step)
    def stepping(*args: Any, **kwargs: Any) -> Any:
        is_step[0] = True
        try:
            return step(*args, **kwargs)
        finally:
            is_step[0] = False

    with ExitStack() as stack:
        if (function := getattr(module, FUNCTION, None)) is not None:
            stack.enter_context(patch.object(module, FUNCTION, keep(function)))
        if (path := getattr(module, PATH, None)) is not None:
            stack.enter_context(patch.object(path, "__call__", keep(path.__call__)))
        stack.enter_context(patch.object(owner, "step", stepping))
        yield kept


@contextmanager
def keep_first_draws(pipeline: Any) -> Iterator[list[Array]]:
    """While active, record the noise that a pipeline draws with the function `randn_tensor` of its module, from which x
    starts. Yields the list of recorded arrays."""
    kept: list[Array] = []
    module = sys.modules[type(pipeline).__module__]
    original: Any = getattr(module, FUNCTION, None)

    def drawing(*args: Any, **kwargs: Any) -> Any:
        drawn = original(*args, **kwargs)
        kept.append(drawn.numpy().copy())
        return drawn

    with patch.object(module, FUNCTION, drawing) if original is not None else nullcontext():
        yield kept
