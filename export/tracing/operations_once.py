"""For each module torch.onnx lists the operations that it writes, and their signatures. Once in a process is enough."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@contextmanager
def operations_once() -> Iterator[None]:
    """Inside the block the list and the signatures are made for the first module alone.

    onnxscript 0.7 parses the sources of some 500 functions for the list: 2.4 of the 3.9 s of the processor that the
    export of a small network took. The signatures are a quarter of what it takes then. Both names are private: a
    release that lacks one is left as it is.
    """
    try:
        from torch.onnx._internal.exporter import _registration
    except ImportError:
        yield
        return
    apis, schemas = (getattr(_registration, name, None) for name in ("onnxscript_apis", "_schemas"))
    with _once(apis, "get_torchlib_ops"), _once(schemas, "op_signature_from_function"):
        yield


@contextmanager
def _once(owner: Any, name: str) -> Iterator[None]:
    function = getattr(owner, name, None)
    if function is None:
        yield
        return
    setattr(owner, name, _kept(function))
    try:
        yield
    finally:
        setattr(owner, name, function)


@cache
def _kept(function: Callable[..., Any]) -> Callable[..., Any]:
    return cache(function)
