"""Make torch.onnx faster: cache work that is the same for each module, and skip searches that cannot succeed."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import Any
from unittest.mock import patch


@contextmanager
def cache_operations() -> Iterator[None]:
    """While active, let torch.onnx compute its list of operations and their signatures only once for all modules.

    onnxscript 0.7 parses the sources of some 500 functions for the list. This took 2.4 of the 3.9 s of processor time
    of the export of a small network, and the signatures a quarter of the rest. Both functions are private. If a release
    lacks one, it is not cached.
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
                stack.enter_context(patch.object(owner, name, _cache_function(function)))
        yield


@contextmanager
def list_operations_once() -> Iterator[None]:
    """While active, let torch read its composite operations from its dispatcher only once, and override them cheaply.

    Each of the retracings of an export reads the list for each of 27 namespaces, and overrides some 600 operations.
    torch 2.13 evaluates the annotations of a nested function for each override. Together this took 0.3 of the 0.7 s of
    processor time of the export of a single operation. An operation that is registered meanwhile is still found: torch
    reads the list only to make all operations attributes of `torch.ops`, and the first use of an operation makes it one
    too. Both names are private. If a release lacks one, nothing is changed.
    """
    with ExitStack() as stack:
        with suppress(ImportError):
            from torch._export import utils

            if (function := getattr(utils, "_materialize_cpp_cia_ops", None)) is not None:
                stack.enter_context(patch.object(utils, "_materialize_cpp_cia_ops", cache(function)))
        from torch import _ops

        if getattr(_ops, "Callable", None) is Callable:
            stack.enter_context(patch.object(_ops, "Callable", _PlainCallable))
        yield


class _PlainCallable(Callable):  # type: ignore[misc, type-arg]
    """A replacement for `Callable`, used in `isinstance` and in annotations that are never read."""

    def __class_getitem__(cls, parameters: object) -> type:
        return cls

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        return Callable.__subclasshook__(other)


@cache
def _cache_function(function: Callable[..., Any]) -> Callable[..., Any]:
    return cache(function)


@contextmanager
def skip_impossible_matches() -> Iterator[None]:
    """Inside the block, a rewrite pattern with several outputs is not tried at a node whose operation differs from the
    pattern's first output.

    onnxscript 0.7 goes through the whole graph for each node before it compares the operation. This took two minutes
    for the U-Net of Stable Diffusion XL, with some ten thousand nodes. The matches are the same. The matcher is private
    to onnxscript. If a release lacks it, nothing is changed.
    """
    try:
        from onnxscript.rewriter._basics import MatchResult
        from onnxscript.rewriter._matcher import SimplePatternMatcher
    except ImportError:
        yield
        return
    matcher: Any = SimplePatternMatcher
    match = getattr(matcher, "match", None)
    if match is None:
        yield
        return

    def quick(self: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        ends: Any = getattr(self.pattern, "output_nodes", ())
        wanted = ends[0].op_identifier() if len(ends) > 1 else None
        if wanted is not None and node.op_identifier() != wanted:
            return MatchResult().fail()
        return match(self, model, graph, node, **options)

    with patch.object(matcher, "match", quick):
        yield
