"""Comparisons of sizes that torch cannot decide by its rules: they are evaluated at every size of their range.

A comparison with the same result at all sizes needs no guard. If its result changes, the code does other operations at
some sizes, and the guard that torch makes of it is recorded, for the error.
"""

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, wraps
from math import prod
from typing import Any
from unittest.mock import patch

import numpy as np
import sympy  # type: ignore[import-untyped]
from numpy.typing import NDArray
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from fewstep.export.error_text import user_code_location

POINTS = 2**18  # sizes, or pairs of sizes, at which one comparison is evaluated at most, in about 0.2 s
OPERATIONS: dict[str, Any] = {  # torch's own functions of sizes, which numpy lacks
    "FloorDiv": lambda size, divisor: size // divisor,
    "CleanDiv": lambda size, divisor: size // divisor,
    "Mod": lambda size, divisor: size % divisor,
    "PythonMod": lambda size, divisor: size % divisor,
}
REMAINDERS = ("Mod", "PythonMod")
Ranges = tuple[tuple[int, int], ...]  # the lowest and highest value of each symbol
Symbol = Any  # sympy has no types


@dataclass(frozen=True)
class Guard:
    """A comparison of sizes that is true at the sizes of the trace, and false at others.

    condition: the comparison, in sympy.
    traced_at: the value of each symbol in the trace.
    false_at: the first values at which it is false.
    location: the line of the user's code that compares, as " (FILE:LINE)", or "".
    """

    condition: Any
    traced_at: Mapping[Symbol, int]
    false_at: Mapping[Symbol, int]
    location: str


@contextmanager
def decide_in_ranges(pads: bool = False) -> Iterator[list[Guard]]:
    """Inside the block, let torch know the comparisons of sizes that have one result in the whole range. The list that
    is yielded receives the guards that torch makes of others.

    Comparisons with the batch, which has no upper limit, are left to torch, and so are those of more than `POINTS`
    choices of sizes. The methods that are replaced are private to torch: without them, torch decides alone.

    pads: code that pads to a multiple is traced with its padding, though it pads nothing at some sizes, which include
        the largest ones. The caller has to compare it there.
    """
    guards: list[Guard] = []
    decide, compare = getattr(ShapeEnv, "_maybe_evaluate_static", None), getattr(ShapeEnv, "evaluate_expr", None)
    if decide is None or compare is None:
        yield guards
        return

    @wraps(decide)  # torch clears the caches of its methods by their attributes
    def decide_or_evaluate(env: Any, expression: Any, **options: Any) -> Any:
        known = decide(env, expression, **options)
        if known is not None or options.get("unbacked_only"):
            return known
        values = _evaluate(env, expression)
        if values is None:
            return None
        if values.any() != values.all():
            return _pad_by_any_number(env, expression) if pads else None
        return sympy.true if values.all() else sympy.false

    @wraps(compare)
    def record_guards(env: Any, *arguments: Any, **options: Any) -> Any:
        before = len(env.guards)
        result = compare(env, *arguments, **options)
        new = (_describe_guard(env, made.expr) for made in env.guards[before:])
        guards.extend(guard for guard in new if guard is not None)
        return result

    with (
        patch.object(ShapeEnv, "_maybe_evaluate_static", decide_or_evaluate),
        patch.object(ShapeEnv, "evaluate_expr", record_guards),
    ):
        yield guards


def _pad_by_any_number(env: Any, expression: Any) -> Any:
    """Return the result in the trace of a comparison such as `padding > 0`, which differs only where code that pads to
    a multiple pads by 0 or 1, as it does at the largest sizes. None for any other comparison."""
    expression = env.simplify(expression)
    symbols, values = _symbols(expression), _evaluate(env, expression)
    remainders = (term for term in sympy.preorder_traversal(expression) if type(term).__name__ in REMAINDERS)
    padding, ranges = next(remainders, None), _ranges(env, symbols)
    if padding is None or values is None or ranges is None or len(symbols) != 1 or _symbols(padding) != symbols:
        return None
    none_or_one = _evaluate(env, padding <= 1)
    greatest = {symbol: sympy.Integer(high) for symbol, (_, high) in zip(symbols, ranges, strict=True)}
    if none_or_one is None or padding.xreplace(greatest) != 0 or none_or_one.all():
        return None
    usual = values[~none_or_one]
    if usual.any() != usual.all():
        return None
    return sympy.true if usual.all() else sympy.false


def _describe_guard(env: Any, condition: Any) -> Guard | None:
    """Return the guard of a comparison that was just made; None if it is true at all sizes, or cannot be evaluated."""
    values = _evaluate(env, condition)
    if values is None or values.all():
        return None
    condition = env.simplify(condition)
    symbols = _symbols(condition)
    steps = np.unravel_index(int(np.argmin(values)), values.shape)
    lows = [low for low, _ in _ranges(env, symbols) or ()]
    false_at = {symbol: low + int(step) for symbol, low, step in zip(symbols, lows, steps, strict=True)}
    traced = getattr(env, "backed_var_to_val", None) or env.var_to_val  # as torch 2.12 and 2.9 name it
    at = {symbol: int(traced[symbol]) for symbol in symbols}
    return Guard(condition, at, false_at, user_code_location(traceback.format_stack()))


def _evaluate(env: Any, expression: Any) -> NDArray[np.bool_] | None:
    """Return a comparison at all values of its symbols, with an axis for each in the order of `_symbols`; None if it is
    no comparison of sizes with limits, or has more than `POINTS` values."""
    if not isinstance(expression, sympy.logic.boolalg.Boolean):
        return None
    expression = env.simplify(expression)
    symbols = _symbols(expression)
    ranges = _ranges(env, symbols)
    if not symbols or ranges is None or prod(high - low + 1 for low, high in ranges) > POINTS:
        return None
    return _evaluate_in(expression, ranges)


@lru_cache(maxsize=256)
def _evaluate_in(expression: Any, ranges: Ranges) -> NDArray[np.bool_] | None:
    """Return a comparison at all values in these ranges, computed with Python's integers, which cannot overflow."""
    compute = sympy.lambdify(_symbols(expression), expression, modules=[OPERATIONS, "numpy"])
    axes = np.meshgrid(*(np.arange(low, high + 1).astype(object) for low, high in ranges), indexing="ij")
    try:
        values = np.asarray(compute(*axes))
    except (NameError, TypeError, ValueError, AttributeError, ArithmeticError):  # a function of torch, a division by 0
        return None
    return np.broadcast_to(values, axes[0].shape) if values.dtype == np.bool_ else None


def _symbols(expression: Any) -> list[Symbol]:
    return sorted(expression.free_symbols, key=str)


def _ranges(env: Any, symbols: list[Symbol]) -> Ranges | None:
    """Return the range of each symbol; None if one has no limit."""
    known = [env.var_to_range.get(symbol) for symbol in symbols]
    if any(limits is None or not (limits.lower.is_Integer and limits.upper.is_Integer) for limits in known):
        return None
    return tuple((int(limits.lower), int(limits.upper)) for limits in known)
