"""torch.onnx asks onnxscript for the operations that it can write, for each module. Once in a process is enough."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any


@contextmanager
def operations_once() -> Iterator[None]:
    """Inside the block the list is made for the first module alone.

    onnxscript 0.7 parses the sources of some 500 functions for it: 2.4 of the 3.9 s of the processor that the export of
    a small network took. The list is private to both packages: a release that has none of this name is left as it is.
    """
    try:
        from torch.onnx._internal.exporter import _registration
    except ImportError:
        yield
        return
    apis: Any = getattr(_registration, "onnxscript_apis", None)
    operations = getattr(apis, "get_torchlib_ops", None)
    if operations is None:
        yield
        return
    apis.get_torchlib_ops = partial(_listed, operations)
    try:
        yield
    finally:
        apis.get_torchlib_ops = operations


@cache
def _listed(operations: Callable[[], list[Any]]) -> list[Any]:
    return operations()
