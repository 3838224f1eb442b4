"""Rules for many functions: pointwise ones, those along an axis, and those of a batch of rows."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.export.tracing.samples.axes import Arguments, Options, align, name_of, shift, wrap
from fewstep.export.tracing.samples.sample import (
    Sample,
    Selection,
    UnknownFunctionError,
    find_samples,
    hold,
    read_shape,
)

_POINTWISE = (
    "add sub mul div true_divide rsub radd rmul rdiv rtruediv truediv floordiv floor_divide mod remainder pow rpow neg "
    "abs exp log sqrt rsqrt sin cos tan tanh sigmoid silu gelu relu softplus elu leaky_relu mish hardswish square "
    "reciprocal clamp clip minimum maximum where eq ne lt le gt ge and or xor invert logical_and logical_or "
    "logical_not bitwise_not bitwise_and bitwise_or isnan isinf nan_to_num masked_fill round floor ceil sign erf "
    "float double half bool long int to type type_as contiguous clone detach cpu view_as_real view_as_complex real "
    "imag conj polar lerp addcmul dropout identity linear layer_norm rms_norm embedding iand ior imul iadd isub "
    "itruediv expm1 log1p atan2 bfloat16 alias one_hot"
)
POINTWISE = frozenset(_POINTWISE.split())
LAST_AXES = frozenset(
    ["linear", "layer_norm", "rms_norm", "embedding", "to", "type_as", "one_hot"]
)  # of the first tensor
# functions with an axis, the position of its argument, and its default (REDUCED: all axes)
REDUCED = "all"
ALONG: dict[str, tuple[int, Any]] = {
    **dict.fromkeys(["softmax", "log_softmax", "cumsum", "unbind", "glu"], (1, None)),
    **dict.fromkeys(["sum", "mean", "amax", "amin", "all", "any", "std", "var", "prod", "argmax"], (1, REDUCED)),
    **dict.fromkeys(["unsqueeze", "select", "narrow", "slice", "unflatten", "flip"], (1, None)),
    **dict.fromkeys(["gather", "index_select"], (1, None)),
    **dict.fromkeys(["chunk", "split", "tensor_split", "split_with_sizes"], (2, 0)),
    **dict.fromkeys(["argsort", "sort"], (1, -1)),
    **dict.fromkeys(["topk", "repeat_interleave", "roll"], (2, -1)),
}
LEADING: dict[str, int] = {  # functions with a batch in the first axis, and the rank of their first argument
    "conv1d": 3, "conv2d": 4, "conv3d": 5, "conv_transpose1d": 3, "conv_transpose2d": 4, "conv_transpose3d": 5,
    "avg_pool1d": 3, "avg_pool2d": 4, "avg_pool3d": 5, "max_pool2d": 4, "interpolate": 0, "group_norm": 0,
    "batch_norm": 0, "pixel_shuffle": 0, "pixel_unshuffle": 0, "adaptive_avg_pool2d": 4,
}  # fmt: skip


def apply_pointwise(func: Callable[..., Any], args: Arguments, options: Options, batch: Any) -> Any:
    name = name_of(func)
    given = [*args, *options.values()]
    tensors = args[:1] if name in LAST_AXES else given
    rank = max(len(read_shape(tensor)) for tensor in tensors if isinstance(tensor, Tensor))
    selection = _common_selection(name, given, rank)
    made = Sample(
        func(
            *(align(argument, rank) for argument in args),
            **{key: align(option, rank) for key, option in options.items()},
        ),
        selection,
    )
    # code may compute a mask again, as in y[mask == i] = f(x[mask == i])
    if (
        made.dtype == torch.bool
        and not options
        and all(isinstance(argument, Sample | int | float) for argument in args)
    ):
        made.key = (name, *(argument.key if isinstance(argument, Sample) else argument for argument in args))
    if name in ("invert", "logical_not", "bitwise_not"):
        made.negated = args[0]
    return made


def _common_selection(name: str, given: Sequence[Any], rank: int) -> Selection | None:
    """Return the selection of all arguments, which all other tensors of samples have too. Weights follow its axis."""
    samples = list(find_samples(given))
    own = next((sample.selection for sample in samples if sample.selection is not None), None)
    if own is None:
        return None
    is_same = all(sample.selection is not None and own.is_same(sample.selection) for sample in samples)
    weights = [argument for argument in given if isinstance(argument, Tensor) and not isinstance(argument, Sample)]
    is_small = all(len(read_shape(weight)) < rank - own.axis for weight in weights) or own.axis < rank - 1
    if not is_same or not is_small or len({len(read_shape(sample)) for sample in samples}) > 1:
        raise UnknownFunctionError(f"{name} of different selections")
    return own


def apply_along(func: Callable[..., Any], args: Arguments, options: Options, batch: Any) -> Any:
    place, default = ALONG[name_of(func)]
    x, *others = args
    options = dict(options)
    rank = len(read_shape(x))
    key = "dims" if "dims" in options else "axis" if "axis" in options else "dim"
    given = others[place - 1] if len(others) >= place else options.get(key, default)
    if given is None or given == REDUCED:
        given = tuple(range(rank))
    axes = shift(given)
    if len(others) >= place:
        others[place - 1] = axes
    else:
        options[key] = axes
    if not isinstance(x, Sample):
        x = Sample(hold(x, batch))
    if name_of(func) == "gather":
        others, options = [shift(given)], {"index": hold(others[1] if len(others) > 1 else options["index"], batch)}
    elif any(isinstance(value, Sample) for value in [*others, *options.values()]):
        raise UnknownFunctionError(f"{name_of(func)} by numbers of a sample")
    return wrap(func(x.held, *others, **options))


def apply_to_rows(func: Callable[..., Any], args: Arguments, options: Options, batch: Any) -> Any:
    x, *others = args
    rank = LEADING[name_of(func)]
    if not isinstance(x, Sample) or (rank and x.held.dim() != rank + 1) or list(find_samples(others)):
        raise UnknownFunctionError(f"{name_of(func)} with weights of a sample")
    made = func(x.held.flatten(0, 1), *others, **options)
    return Sample(made.unflatten(0, (batch, -1)))
