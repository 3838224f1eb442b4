"""Make onnxscript's optimizer remove a term or a factor only if it is exactly 0 or 1.

Its patterns accept 0 within 1e-8 and 1 within 1e-5, so x / (norm(x) + 1e-8) would lose what protects it from 0 / 0.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


@contextmanager
def match_exact_constants() -> Iterator[None]:
    """Match the constants 0 and 1 of patterns exactly inside the block. Other constants, such as the root of 2 in a
    GELU, keep their tolerance.

    The matcher is private to onnxscript. If a release lacks it, nothing is changed.
    """
    try:
        from onnxscript.rewriter._matcher import SimplePatternMatcher
        from onnxscript.rewriter._pattern_ir import Constant
    except ImportError:
        yield
        return
    matcher: Any = SimplePatternMatcher
    match = getattr(matcher, "_match_constant", None)
    if match is None:
        yield
        return

    def match_exactly(self: Any, pattern: Any, value: Any) -> bool:
        is_neutral = not isinstance(pattern.value, list) and pattern.value in (0, 1)
        return bool(match(self, Constant(pattern.value, 0.0, 0.0) if is_neutral else pattern, value))

    with patch.object(matcher, "_match_constant", match_exactly):
        yield
