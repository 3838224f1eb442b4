"""Work of torch.onnx that is the same for each module, done once, and work that finds nothing, left out."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch


@contextmanager
def cache_operations() -> Iterator[None]:
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
                stack.enter_context(patch.object(owner, name, _cache_function(function)))
        yield


@cache
def _cache_function(function: Callable[..., Any]) -> Callable[..., Any]:
    return cache(function)


@contextmanager
def skip_impossible_matches() -> Iterator[None]:
    """Inside the block a node is passed over at once if it is none that such a pattern ends with.

    onnxscript 0.7 goes through the whole graph for each node before it looks at that. For the U-Net of Stable Diffusion
    XL, of some ten thousand nodes, this took two minutes. What matches is the same. The matcher is private to
    onnxscript: a release that has none of this name is left as it is.
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
