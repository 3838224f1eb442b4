"""Where the elements of one tensor are in another: an order, with a scale and a shift."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from math import prod

import torch
from torch import Tensor, nn

from fewstep.pipelines.recording.fit import TOLERANCE

BEFORE, AFTER, AROUND = "before x in ", "after x in ", "around x in "  # of the other elements of a tensor with x
Box = tuple[tuple[int, int], ...]  # the start and the stop along each axis of a row


class ElementMap(nn.Module):
    """Maps tensors [rows, *source_shape] to tensors [rows, *target_shape]: scale * source[order] + shift.

    `order` has the index in a row of the source of each element of a row of the target, or -1 for an element that the
    caller gives. `scale` and `shift` are None, or have the shape of a row of the target.
    """

    order: Tensor
    inverse: Tensor | None
    scale: Tensor | None
    shift: Tensor | None

    def __init__(
        self,
        order: Tensor,
        source_shape: tuple[int, ...],
        target_shape: tuple[int, ...],
        scale: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.source_shape, self.target_shape = source_shape, target_shape
        count = prod(source_shape)
        self.is_full = bool((order >= 0).all())
        self.is_run = self.is_full and torch.equal(order, torch.arange(len(order)) + order[0])
        self.start = int(order[0])  # of a run; a trace does not know the values of a buffer
        self.is_sorted = self.is_run and len(order) == count
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("inverse", None if scale is None or self.is_sorted else invert(order, count))
        self.register_buffer("scale", None if scale is None else _compact(scale)[None])
        self.register_buffer("shift", None if shift is None else _compact(shift)[None])
        self.selects = _find_box(order, target_shape, source_shape)  # the box of the source that is the target
        inserts = None if self.is_full else _find_box(invert(order, count), source_shape, target_shape)
        self.inserts = inserts  # the box of the target that is the source

    def forward(self, source: Tensor, rest: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the target. `rest` has its other elements, as `others` returns them."""
        if self.scale is None and self.selects is not None:
            return self._cut(source)
        target = self._rearrange(source, rest or {})
        return target if self.scale is None or self.shift is None else target * self.scale + self.shift

    @property
    def joins(self) -> bool:
        """Whether the source is a part of the target along one axis, so that other axes may have any size."""
        return self._axis() is not None

    @property
    def cuts(self) -> tuple[tuple[int, int, int], ...] | None:
        """The axis, the start and the stop of each cut that selects a box of the source. Other axes may have any size.
        None if the target is no box."""
        if self.selects is None:
            return None
        sizes = zip(self.selects, self.source_shape, strict=True)
        return tuple((axis, *box) for axis, (box, size) in enumerate(sizes, 1) if box != (0, size))

    def _cut(self, source: Tensor) -> Tensor:
        for axis, start, stop in self.cuts or ():
            source = source.narrow(axis, start, stop - start)
        return source

    def undo(self, target: Tensor) -> Tensor:
        """Return the source of a target, of a map with a scale."""
        assert self.scale is not None and self.shift is not None, "the map has a scale"
        source = (target - self.shift) / self.scale
        if self.inverse is not None:
            source = source.flatten(1).index_select(1, self.inverse)
        elif self.source_shape == self.target_shape:
            return source  # of any size
        return source.reshape(-1, *self.source_shape)

    @property
    def is_of_any_size(self) -> bool:
        """Whether a target is its source, scaled and shifted alike along all axes but the first."""
        parts = [part for part in (self.scale, self.shift) if part is not None]
        is_even = all(max(part.shape[2:], default=1) == 1 for part in parts)
        return self.is_sorted and self.source_shape == self.target_shape and is_even

    def _rearrange(self, source: Tensor, rest: Mapping[str, Tensor]) -> Tensor:
        if self.is_sorted:
            return source.reshape(-1, *self.target_shape)
        if (axis := self._axis()) is not None:
            parts = (rest.get(BEFORE), source, rest.get(AFTER))
            return torch.cat([part for part in parts if part is not None], dim=axis)
        if self.is_run:
            start = self.start
            return source.flatten(1)[:, start : start + len(self.order)].reshape(-1, *self.target_shape)
        chosen = source.flatten(1).index_select(1, self.order if self.is_full else self.order.clamp(min=0))
        if (around := rest.get(AROUND)) is not None:
            chosen = torch.where(self.order >= 0, chosen, around.flatten(1))
        return chosen.reshape(-1, *self.target_shape)

    def select(self, target: Tensor) -> Tensor:
        """Return the source [rows, *source_shape] in a target, of a map that joins it with other elements or none."""
        if (axis := self._axis()) is None:
            return target
        assert self.inserts is not None, "there is an axis"
        start, stop = self.inserts[axis - 1]
        return target.narrow(axis, start, stop - start)

    def others(self, target: Tensor) -> dict[str, Tensor]:
        """Return the elements of a target that do not come from a source: those before and after it along an axis, or
        the target with zeros for the other elements."""
        if self.is_full:
            return {}
        if (axis := self._axis()) is None:
            return {AROUND: torch.where(self.order >= 0, 0.0, target.flatten(1)).reshape(target.shape)}
        assert self.inserts is not None, "there is an axis"
        start, stop = self.inserts[axis - 1]
        parts = {BEFORE: target.narrow(axis, 0, start), AFTER: target.narrow(axis, stop, target.shape[axis] - stop)}
        return {name: part for name, part in parts.items() if part.numel()}

    def _axis(self) -> int | None:
        """Return the only axis of the target along which it is longer than the source, whose elements are in order."""
        if self.inserts is None:
            return None
        longer = [axis for axis, size in enumerate(self.source_shape) if size != self.target_shape[axis]]
        return 1 + longer[0] if len(longer) == 1 else None


def find(source: Tensor, target: Tensor) -> ElementMap | None:
    """Return where the elements of sources [recordings, *shape] are in targets [recordings, *shape], by their values,
    which are random; None if they are not there. The target may be a multiple of the source if the elements keep their
    order. Otherwise elements are equal."""
    for selected in boxes(tuple(source.shape[1:]), tuple(target.shape[1:])):
        if is_multiple(selected(target), source):
            order = invert(selected.order, target[0].numel())
            return ElementMap(order, selected.target_shape, selected.source_shape)
    codes = _codes(torch.cat([source.flatten(1), target.flatten(1)], dim=1))
    known, among = codes[: source[0].numel()], codes[source[0].numel() :]
    ordered, index = known.sort()
    place = torch.searchsorted(ordered, among).clamp(max=len(known) - 1)
    order = torch.where(ordered[place] == among, index[place], -1)
    if not bool((order >= 0).any()):
        return None
    return ElementMap(order, tuple(source.shape[1:]), tuple(target.shape[1:]))


@lru_cache(maxsize=8)
def boxes(inner: tuple[int, ...], outer: tuple[int, ...]) -> tuple[ElementMap, ...]:
    """Return the maps from rows of shape `outer` to parts of shape `inner` at the start or the end of each axis. The
    same shapes give the same maps."""
    if len(inner) != len(outer) or any(size > of_outer for size, of_outer in zip(inner, outer, strict=True)):
        return ()
    places = torch.arange(prod(outer)).reshape(1, *outer)
    ends = [sorted({(0, size), (full - size, full)}) for size, full in zip(inner, outer, strict=True)]
    return tuple(ElementMap(_select(places, box).flatten(), outer, inner) for box in product(*ends))


def is_multiple(values: Tensor, of: Tensor) -> bool:
    """Return True if each row of a tensor is a multiple of that of another one, other than 0."""
    for row, source in zip(values.double(), of.double(), strict=True):
        factor = float((row * source).sum() / (source**2).sum())
        if factor == 0 or not is_close(row, factor * source):
            return False
    return True


def is_close(value: Tensor, expected: Tensor) -> bool:
    """Return True if tensors agree within the tolerance."""
    if value.shape != expected.shape:
        return False
    scale = max(1.0, float(expected.abs().max()) if expected.numel() else 1.0)
    return bool((value.double() - expected.double()).abs().max() <= TOLERANCE * scale)


def _select(source: Tensor, box: Box) -> Tensor:
    for axis, (start, stop) in enumerate(box, 1):
        if stop - start != source.shape[axis]:
            source = source.narrow(axis, start, stop - start)
    return source


def _find_box(order: Tensor, inner: Sequence[int], outer: Sequence[int]) -> Box | None:
    """Return the box of a row of shape `outer` whose elements have these indices, in their order; None for others."""
    if len(inner) != len(outer) or not bool((order >= 0).all()):
        return None
    start = torch.unravel_index(order[0], tuple(outer))
    box = tuple((int(first), int(first) + size) for first, size in zip(start, inner, strict=True))
    if any(stop > size for (_, stop), size in zip(box, outer, strict=True)):
        return None
    places = torch.arange(prod(outer)).reshape(1, *outer)
    return box if torch.equal(_select(places, box).flatten(), order) else None


def invert(order: Tensor, count: int) -> Tensor:
    """Return the index in `order` of each number below `count`, or -1 for those that it does not have."""
    places, is_known = torch.full((count,), -1), order >= 0
    places[order[is_known]] = torch.arange(len(order))[is_known]
    return places


def _codes(values: Tensor) -> Tensor:
    """Return one integer for each column of [recordings, columns]: the same for equal columns."""
    codes = torch.zeros(values.shape[1], dtype=torch.int64)
    for row in values.float():
        bits = row.contiguous().view(torch.int32).to(torch.int64) & 0xFFFFFFFF
        _, codes = torch.unique((codes << 32) | bits, return_inverse=True)
    return codes


def _compact(values: Tensor) -> Tensor:
    """Return values with size 1 along each axis along which they do not change."""
    for axis in range(values.dim()):
        first = values.narrow(axis, 0, 1)
        if torch.equal(values, first.expand_as(values)):
            values = first
    return values.contiguous()
