"""Rules for single functions: views, joins, products, indexes and attention."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fewstep.export.tracing.samples.axes import Arguments, Options, Rule, align, as_list, shift
from fewstep.export.tracing.samples.sample import Sample, UnknownFunctionError, find_samples, hold, read_shape
from fewstep.export.tracing.samples.selections import attend, find_indexes, join, pad_after, put, select


def _reshape(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    x, *sizes = args
    if sizes and isinstance(sizes[0], torch.dtype):
        return Sample(func(x.held, *sizes))
    return Sample(x.held.reshape(batch, *as_list(sizes, options.get("shape", options.get("size")))))


def _expand(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    x, *sizes = args
    if not isinstance(x, Sample):
        raise UnknownFunctionError("expand to a sample")
    shape = as_list(sizes, options.get("size"))
    return Sample(align(x, len(shape)).expand(-1, *shape))


def _expand_as(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    x, other = args
    return x.expand(read_shape(other))


def _repeat(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    x, *counts = args
    counts = as_list(counts)
    return Sample(align(x, len(counts)).repeat(1, *counts))


def _permute(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    x, *axes = args
    rank = len(read_shape(x))
    return Sample(x.held.permute(0, *(axis % rank + 1 for axis in as_list(axes, options.get("dims")))))


def _move(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    """transpose and movedim, whose two other arguments are axes."""
    x, *axes = args
    return Sample(func(x.held, *map(shift, [*axes, *options.values()])))


def _transpose_last(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    return Sample(args[0].held.transpose(-1, -2))


def _flatten(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    x, *axes = args
    start = axes[0] if axes else options.get("start_dim", 0)
    end = axes[1] if len(axes) > 1 else options.get("end_dim", -1)
    held = x.held if x.held.dim() > 1 else x.held.unsqueeze(1)
    selection = x.selection
    if selection is not None and (selection.axis != 0 or read_shape(x)[1:] != (1,)):
        raise UnknownFunctionError("flatten of tokens that a mask selects")
    return Sample(held.flatten(shift(start), shift(end)), selection)


def _squeeze(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    x, *axes = args
    rank = len(read_shape(x))
    given = as_list(axes, options.get("dim")) if axes or options else range(rank)
    chosen = [axis % rank + 1 for axis in ([given] if isinstance(given, int) else given)]
    return Sample(x.held.squeeze([axis for axis in chosen if x.held.shape[axis] == 1]))


def _matmul(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    one, other = (Sample(hold(argument, batch)) if isinstance(argument, Tensor) else argument for argument in args[:2])
    ranks = [len(read_shape(operand)) for operand in (one, other)]
    if min(ranks) < 2:
        raise UnknownFunctionError("matmul with a vector of a sample")
    return Sample(torch.matmul(align(one, max(ranks)), align(other, max(ranks))))


def _einsum(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    equation, *tensors = args
    tensors = list(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], Sequence) else tensors
    terms, result = equation.replace(" ", "").split("->")
    own = ["Z" * isinstance(operand, Sample) + term for operand, term in zip(tensors, terms.split(","), strict=True)]
    held = [tensor.held if isinstance(tensor, Sample) else tensor for tensor in tensors]
    return Sample(torch.einsum(f"{','.join(own)}->Z{result}", *held))


def _concat(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    tensors, *axes = args if args else (options["tensors"],)
    axis = axes[0] if axes else options.get("dim", 0)
    if any(isinstance(tensor, Sample) and tensor.selection is not None for tensor in tensors):
        return join(list(tensors), axis, batch)
    return Sample(torch.cat([hold(tensor, batch) for tensor in tensors], shift(axis)))


def _stack(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    tensors, *axes = args if args else (options["tensors"],)
    return Sample(
        torch.stack([hold(tensor, batch) for tensor in tensors], shift(axes[0] if axes else options.get("dim", 0)))
    )


def _pad_sequence(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    tensors, *others = args
    if len(tensors) != 1:
        raise UnknownFunctionError("pad_sequence of several tensors of a sample")
    return tensors[0].unsqueeze(0 if (others[0] if others else options.get("batch_first", False)) else 1)


def _pad(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    x, *others = args
    amounts = others[0] if others else options["pad"]
    if x.selection is None:
        return Sample(F.pad(x.held, *others, **options))
    axis = 2 * (len(read_shape(x)) - 1 - x.selection.axis)
    if (
        any(amounts[:axis])
        or len(amounts) != axis + 2
        or amounts[axis]
        or options.get("mode", "constant") != "constant"
    ):
        raise UnknownFunctionError("pad of tokens that a mask selects, except by a constant at the end of their axis")
    return pad_after(x, amounts[axis + 1], options.get("value") or 0.0)


def _attention(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = {**dict(zip(names, args, strict=False)), **options}
    q, k, v = (given.pop(name) for name in names[:3])
    mask, selection = attend(q, k, v, given.pop("attn_mask", None), batch)
    rank = len(read_shape(q))
    held = [hold(tensor, batch) for tensor in (q, k, v)]
    if mask is not None:
        mask = align(Sample(hold(mask, batch)), rank)
    if rank == 4:
        size = max((tensor.shape[1] for tensor in held), key=lambda size: size if isinstance(size, int) else 0)
        held = [tensor.flatten(0, 1) for tensor in held]
        if mask is not None:
            mask = mask.expand(-1, size, *mask.shape[2:]).flatten(0, 1)
    made = func(*held, attn_mask=mask, **given)
    return Sample(made.unflatten(0, (batch, -1)) if rank == 4 else made, selection)


def _get_item(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    x, key = args
    keys = key if isinstance(key, tuple) else (key,)
    samples = list(find_samples(keys))
    if not samples:
        return Sample(x.held[(slice(None), *keys)])
    (index,) = samples
    axis = next(place for place, part in enumerate(keys) if part is index)
    is_whole = all(_is_whole(part, read_shape(x)[place]) for place, part in enumerate(keys) if place != axis)
    if index.dtype == torch.bool and len(read_shape(index)) == 1 and is_whole:
        return select(x, index, axis)
    if index.selection is not None and index.selection.is_index and is_whole and isinstance(x, Sample):
        return Sample(x.held, type(index.selection)(axis, index.selection.valid, index.selection.counts))
    if not isinstance(x, Sample) and index.selection is None and len(keys) == 1:
        return Sample(x[index.held])
    raise UnknownFunctionError("an index of a sample")


def _is_whole(key: Any, size: Any) -> bool:
    """Return True for a slice of all elements."""
    return isinstance(key, slice) and key.step is None and key.start in (None, 0) and key.stop in (None, size)


def _set_item(func: Any, args: Arguments, options: Options, batch: Any) -> None:
    x, key, value = args
    if isinstance(x, Sample) and isinstance(key, Sample) and key.dtype == torch.bool:
        x.held, x.key = put(x, key, value), object()
        return
    if not isinstance(x, Sample) or list(find_samples(key if isinstance(key, tuple) else (key,))):
        raise UnknownFunctionError("writing to elements of a tensor that is no sample's")
    held = x.held.clone()
    held[(slice(None), *(key if isinstance(key, tuple) else (key,)))] = (
        value.held if isinstance(value, Sample) else value
    )
    x.held, x.key = held, object()


def _nonzero(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    (mask,) = args
    if len(read_shape(mask)) != 1 or options.get("as_tuple"):
        raise UnknownFunctionError("nonzero of several axes")
    return find_indexes(mask)


def _like(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    """zeros_like and others."""
    (x,) = args
    return Sample(func(x.held, **options), x.selection)


def _new(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    """new_zeros and others."""
    x, *shape = args
    others = shape[1:] if shape and isinstance(shape[0], Sequence) else []
    return Sample(
        func(x.held, (batch, *as_list(shape[:1] if others else shape, options.pop("size", None))), *others, **options)
    )


def _iterate(func: Any, args: Arguments, options: Options, batch: Any) -> Any:
    return iter(args[0].unbind(0))


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(["view", "reshape"], _reshape),
    **dict.fromkeys(["transpose", "movedim", "swapaxes", "swapdims", "moveaxis"], _move),
    **dict.fromkeys(["matmul", "rmatmul", "bmm"], _matmul),
    **dict.fromkeys(["cat", "concat"], _concat),
    **dict.fromkeys(["zeros_like", "ones_like", "empty_like"], _like),
    **dict.fromkeys(["new_zeros", "new_ones", "new_full", "new_empty"], _new),
    "expand": _expand,
    "expand_as": _expand_as,
    "repeat": _repeat,
    "permute": _permute,
    "squeeze": _squeeze,
    "mT": _transpose_last,
    "flatten": _flatten,
    "einsum": _einsum,
    "stack": _stack,
    "pad_sequence": _pad_sequence,
    "pad": _pad,
    "scaled_dot_product_attention": _attention,
    "getitem": _get_item,
    "setitem": _set_item,
    "nonzero": _nonzero,
    "iter": _iterate,
}
