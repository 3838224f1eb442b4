"""For each module torch.onnx lists the operations that it writes, and their signatures. Once in a process is enough."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch


@contextmanager
def operations_once() -> Iterator[None]:
    """Inside the block the list and the signatures are made for the first module alone.

    onnxscript 0.7 parses the sources of some 500 functions for the list: 2.4 of the 3.9 s of the processor that the
    export of a small network took. The signatures are a quarter of what it takes then. Both names are private: a
    release that lacks one is left as it is.
    """
    with ExitStack() as stack:
        try:
            from torch.onnx._internal.exporter import _registration
        except ImportError:
            yield
            return
        for module, name in (("onnxscript_apis", "get_torchlib_ops"), ("_schemas", "op_signature_from_function")):
            owner = getattr(_registration, module, None)
            if (function := getattr(owner, name, None)) is not None:
                stack.enter_context(patch.object(owner, name, _kept(function)))
        yield


@cache
def _kept(function: Callable[..., Any]) -> Callable[..., Any]:
    return cache(function)
