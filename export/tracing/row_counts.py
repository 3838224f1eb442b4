"""The number of rows of a tensor, as `len` and `int` return it, while torch traces."""

import ast
import builtins
import inspect
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

CLASS_TESTS = ("isinstance", "issubclass")
ANNOTATIONS = ("annotation", "returns")  # fields of ast's nodes


@contextmanager
def keep_free_lengths(module: nn.Module) -> Iterator[None]:
    """Inside the block, let `len` of a tensor be its size in the code of a module's classes, and `int` of a size that
    size. Python makes a number of what `__len__` and `__int__` return, which would fix a free size."""
    names = {made.__module__ for layer in module.modules() for made in type(layer).__mro__}
    with ExitStack() as stack:
        for name in names - {builtins.__name__}:
            code = None if name.startswith("torch.") else sys.modules.get(name)
            if code is not None and "len" not in vars(code):
                stack.enter_context(patch.object(code, "len", _count, create=True))
            if code is not None and "int" not in vars(code) and _only_calls_int(name):
                stack.enter_context(patch.object(code, "int", _Int, create=True))
        yield


@cache
def _only_calls_int(name: str) -> bool:
    """Return True if the code of a module calls `int`, and has it in tests of a class and in annotations besides, but
    nowhere else, such as a `dtype` of numpy or `type(x) is int`."""
    try:
        source = inspect.getsource(sys.modules[name])
    except (OSError, TypeError):
        return False
    if "int(" not in source:
        return False
    nodes = list(ast.walk(ast.parse(source)))
    calls = [(node.func, node.args) for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    called = [function for function, _ in calls if function.id == "int"]
    tests = [argument for function, arguments in calls if function.id in CLASS_TESTS for argument in arguments]
    annotations = [getattr(node, field) for node in nodes for field in ANNOTATIONS if getattr(node, field, None)]
    known = {node for part in (*called, *tests, *annotations) for node in ast.walk(part)}
    return bool(called) and all(node in known for node in nodes if isinstance(node, ast.Name) and node.id == "int")


def _count(value: Any) -> Any:
    return value.shape[0] if isinstance(value, Tensor) and value.dim() else builtins.len(value)


class _KeepsSizes(type):
    """The class of `_Int`, which is `int` for `isinstance` and `==`."""

    def __call__(cls, *values: Any, **base: Any) -> Any:
        return values[0] if values and isinstance(values[0], torch.SymInt) else builtins.int(*values, **base)

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, builtins.int)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, builtins.int)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is builtins.int

    def __hash__(cls) -> int:
        return hash(builtins.int)


class _Int(metaclass=_KeepsSizes):
    """`int`, which returns a free size unchanged."""
