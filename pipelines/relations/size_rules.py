"""Constant arguments of a network that follow the height and width of x: numbers, such as the size of the picture of
Stable Diffusion XL or PixArt, and the positions of tokens, such as those of FLUX."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any

import torch
from torch import Tensor

from fewstep.pipelines.relations.relations import same

MOST_NUMBERS = 64  # of an argument whose numbers follow the size
MOST_AXES = 8  # of a position
POWERS = (-1, 0, 1)  # of height and of width
Sizes = tuple[int, int]  # height and width of x


@dataclass(frozen=True)
class NumbersOfSize:
    """Numbers factor * height^a * width^b.

    terms: (factor, a, b) for each number. shape, dtype: those of a tensor; None for a single number of Python.
    is_whole: the numbers are integers.
    """

    terms: tuple[tuple[Fraction, int, int], ...]
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    is_whole: bool

    def value(self, height: int, width: int) -> Any:
        """Return the argument for x of a size, which may be symbolic."""
        numbers = [_evaluate(term, height, width, self.is_whole) for term in self.terms]
        if self.dtype is None:
            return numbers[0]
        dtype = self.dtype
        return torch.stack([torch.full((), number, dtype=dtype) for number in numbers]).reshape(self.shape)


@dataclass(frozen=True)
class GridOfSize:
    """The positions of tokens, one for each block of x, row by row: start + row * by_row + column * by_column.

    block: the height and width of a block. axes: (start, by_row, by_column) for each number of a position. leading: the
    first axes, each of length 1, before [T, positions].
    """

    block: Sizes
    axes: tuple[tuple[float, float, float], ...]
    leading: int
    dtype: torch.dtype

    def value(self, height: int, width: int) -> Tensor:
        """Return the argument for x of a size, which may be symbolic."""
        rows, columns = height // self.block[0], width // self.block[1]
        down = torch.arange(rows, dtype=self.dtype)[:, None]
        across = torch.arange(columns, dtype=self.dtype)[None, :]
        zeros = torch.zeros(rows, columns, dtype=self.dtype)
        grid = torch.stack(
            [zeros + start + by_row * down + by_column * across for start, by_row, by_column in self.axes]
        )
        places = grid.permute(1, 2, 0).reshape(rows * columns, len(self.axes))
        return places.reshape(*(1 for _ in range(self.leading)), rows * columns, len(self.axes))


SizeRule = NumbersOfSize | GridOfSize


def may_follow(value: Any, sizes: Sizes, factors: Sequence[int], block: Sizes | None) -> bool:
    """Return whether a constant may follow the size of x: a number of it is a multiple of a size, or it has a position
    for each token. `block` is that of one token; None without tokens."""
    if isinstance(value, Tensor) and _positions(value, sizes, block):
        return True
    numbers = _numbers(value)
    multiples = {
        Fraction(size) * Fraction(factor) ** power for size in sizes for factor in factors for power in (1, -1)
    }
    return any(number in multiples for number in numbers or ())


def find_size_rule(values: Mapping[Sizes, Any], block: Sizes | None) -> SizeRule | None:
    """Return the rule that a constant follows, from its values at several sizes, of which the first is the usual one;
    None if it follows none, or does not change. `block` is as for `may_follow`."""
    usual, *others = values
    rule = _fit_numbers(values) or _fit_grid(values[usual], usual, block)
    if rule is None or not all(same(rule.value(*sizes), value) for sizes, value in values.items()):
        return None
    return rule if any(not same(values[sizes], values[usual]) for sizes in others) else None


def _fit_numbers(values: Mapping[Sizes, Any]) -> NumbersOfSize | None:
    columns = [_numbers(value) for value in values.values()]
    if any(column is None or len(column) != len(columns[0] or ()) for column in columns):
        return None
    terms = []
    for numbers in zip(*(column for column in columns if column is not None), strict=True):
        fits = (_fit_term(tuple(values), numbers, a, b) for a, b in sorted(product(POWERS, POWERS), key=_complexity))
        term = next(filter(None, fits), None)
        if term is None:
            return None
        terms.append(term)
    value = next(iter(values.values()))
    if isinstance(value, Tensor):
        return NumbersOfSize(tuple(terms), tuple(value.shape), value.dtype, not value.is_floating_point())
    return NumbersOfSize(tuple(terms), (), None, isinstance(value, int))


def _complexity(powers: tuple[int, int]) -> tuple[int, int]:
    return abs(powers[0]) + abs(powers[1]), -sum(powers)


def _fit_term(sizes: Sequence[Sizes], numbers: Sequence[Fraction], a: int, b: int) -> tuple[Fraction, int, int] | None:
    factor = numbers[0] / (Fraction(sizes[0][0]) ** a * Fraction(sizes[0][1]) ** b)
    powers = [Fraction(height) ** a * Fraction(width) ** b for height, width in sizes]
    return (factor, a, b) if all(factor * power == own for power, own in zip(powers, numbers, strict=True)) else None


def _evaluate(term: tuple[Fraction, int, int], height: int, width: int, is_whole: bool) -> Any:
    """Return the number of a term. An integer that a trace keeps symbolic stays one."""
    factor, a, b = term
    above = factor.numerator * (height if a > 0 else 1) * (width if b > 0 else 1)
    below = factor.denominator * (height if a < 0 else 1) * (width if b < 0 else 1)
    return above // below if is_whole else above / below


def _numbers(value: Any) -> list[Fraction] | None:
    """Return the numbers of an argument, or None for one that has none, or too many."""
    if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
        return None
    if not isinstance(value, Tensor):
        return [Fraction(value)] if value == value and abs(value) != float("inf") else None
    if value.dtype == torch.bool or value.is_complex() or not 0 < value.numel() <= MOST_NUMBERS:
        return None
    if not bool(torch.isfinite(value).all()):
        return None
    return [Fraction(number) for number in value.flatten().tolist()]


def _positions(value: Tensor, sizes: Sizes, block: Sizes | None) -> bool:
    if value.dtype == torch.bool or value.is_complex():
        return False
    if block is None or value.dim() < 2 or value.shape[-1] > MOST_AXES:
        return False
    tokens = (sizes[0] // block[0]) * (sizes[1] // block[1])
    return value.shape[-2] == tokens and value.numel() == tokens * value.shape[-1]


def _fit_grid(value: Any, sizes: Sizes, block: Sizes | None) -> GridOfSize | None:
    if not isinstance(value, Tensor) or block is None or not _positions(value, sizes, block):
        return None
    rows, columns = sizes[0] // block[0], sizes[1] // block[1]
    grid = value.reshape(rows, columns, value.shape[-1])
    start = grid[0, 0]
    by_row = grid[1, 0] - start if rows > 1 else torch.zeros_like(start)
    by_column = grid[0, 1] - start if columns > 1 else torch.zeros_like(start)
    axes = tuple(zip(start.tolist(), by_row.tolist(), by_column.tolist(), strict=True))
    return GridOfSize(block, axes, value.dim() - 2, value.dtype)
