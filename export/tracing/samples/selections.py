"""Elements that a mask selects, such as the tokens of a text. Their number differs between samples.

The elements that are not selected stay in the tensor, and attention masks them as keys. Where code needs the selected
elements only, in a tensor of a known size, they are moved to the front.
"""

from collections import Counter
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from fewstep.export.tracing.samples.sample import Sample, Selection, UnknownFunctionError, hold, read_shape


def select(x: Tensor, mask: Sample, axis: int) -> Sample:
    """Return x of which the code has the elements along an axis where a mask [size] is True."""
    return Sample(hold(x, mask.held.shape[0]), Selection(axis, mask.held, _count(mask)))


def find_indexes(mask: Sample) -> Sample:
    """Return torch.nonzero of a mask [size]: the indexes of its True elements, [size, 1]."""
    (size,) = read_shape(mask)
    indexes = torch.arange(size).expand(mask.held.shape[0], -1).unsqueeze(-1)
    return Sample(indexes, Selection(0, mask.held.bool(), _count(mask), is_index=True))


def put(x: Sample, mask: Sample, value: Any) -> Tensor:
    """Return the tensor of all samples of x after x[mask] = value, for a mask [size] or a number and any mask."""
    shown = mask.held.reshape(*mask.held.shape, *[1] * (x.held.dim() - mask.held.dim()))
    if not isinstance(value, Tensor):
        return torch.where(shown, value, x.held)
    if not isinstance(value, Sample) or value.selection is None or value.selection.counts != _count(mask):
        raise UnknownFunctionError("writing to elements that another mask selects")
    return torch.where(shown, value.held, x.held)


def _count(mask: Sample) -> dict[Hashable, int]:
    """Return the number of True elements. A mask and its negation have as many together as the mask has elements."""
    if mask.negated is None:
        return {mask.key: 1}
    counts = _count(mask.negated)
    return {**{key: -count for key, count in counts.items()}, None: read_shape(mask)[0] - counts.get(None, 0)}


def join(tensors: list[Any], axis: int, batch: Any) -> Sample:
    """Return a concat of tensors, some of them with a selection along the axis. It has none if the number of selected
    elements is known."""
    rank = len(read_shape(tensors[0]))
    axis %= rank
    held, valid, counts = [], [], Counter[Hashable]()
    for tensor in tensors:
        own = tensor.selection if isinstance(tensor, Sample) else None
        size = read_shape(tensor)[axis]
        if own is not None and own.axis != axis:
            raise UnknownFunctionError("a concat of tokens that a mask selects, except along their axis")
        held.append(hold(tensor, batch))
        valid.append(torch.ones(1, size, dtype=torch.bool).expand(batch, -1) if own is None else own.valid)
        counts.update({None: size} if own is None else own.counts)
    joined = Sample(
        torch.cat(held, axis + 1), Selection(axis, torch.cat(valid, 1), {key: n for key, n in counts.items() if n})
    )
    if not joined.selection.counts.keys() - {None}:  # type: ignore[union-attr]
        return Sample(move_to_front(joined).narrow(axis + 1, 0, counts[None]))
    return joined


def pad_after(x: Sample, count: int, value: float) -> Sample:
    """Return the selected elements, padded to the number of all elements and by `count` more."""
    own = x.selection
    assert own is not None
    front = move_to_front(x)
    size = front.shape[own.axis + 1]
    is_set = torch.arange(size) < own.valid.sum(1, keepdim=True)
    shape = [n if dim in (0, own.axis + 1) else 1 for dim, n in enumerate(front.shape)]
    padded = torch.where(is_set.reshape(shape), front, value)
    more = [0] * (2 * (front.dim() - own.axis - 2)) + [0, count]
    return Sample(torch.nn.functional.pad(padded, more, value=value) if count else padded)


def move_to_front(x: Sample) -> Tensor:
    """Return the tensor of all samples with the selected elements first, in their order."""
    own = x.selection
    assert own is not None
    size, axis = own.valid.shape[1], own.axis + 1
    places = torch.arange(size)
    # numbers that are all different, so that any sort is stable; float32 holds them exactly
    order = torch.where(own.valid, places, places + size).float().argsort(1)
    shape = [n if dim in (0, axis) else 1 for dim, n in enumerate(x.held.shape)]
    index = order.reshape(shape).expand([size if dim == axis else n for dim, n in enumerate(x.held.shape)])
    held = x.held
    return held.float().gather(axis, index).bool() if held.dtype == torch.bool else held.gather(axis, index)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Any, batch: Any) -> tuple[Any, Selection | None]:
    """Return the mask for keys with a selection, and the selection of the output."""
    keys, values = (tensor.selection if isinstance(tensor, Sample) else None for tensor in (k, v))
    own = q.selection if isinstance(q, Sample) else None
    if keys is None and values is None:
        return mask, own
    rank = len(read_shape(k))
    if keys is None or values is None or keys.axis != rank - 2 or not keys.is_same(values):
        raise UnknownFunctionError("attention whose keys and values have different selections")
    if mask is not None or (own is not None and own.axis != rank - 2):
        raise UnknownFunctionError("attention of a selection with a mask")
    return Sample(keys.valid.reshape(batch, *[1] * (rank - 1), -1)), own
