"""The optimizer of torch.onnx looks for a pattern with several results behind nodes that may end it, and no others."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


@contextmanager
def quick_matches() -> Iterator[None]:
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
