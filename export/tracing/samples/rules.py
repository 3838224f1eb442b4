"""What functions of torch do to tensors of one sample: the same to those of all samples, along other axes.

Functions are known by their names. A name without a rule is refused, since its axes are unknown.
"""

from collections.abc import Callable
from typing import Any

import torch

from fewstep.export.tracing.samples.axes import Arguments, Options, name_of
from fewstep.export.tracing.samples.common_rules import (
    ALONG,
    LEADING,
    POINTWISE,
    apply_along,
    apply_pointwise,
    apply_to_rows,
)
from fewstep.export.tracing.samples.sample import UnknownFunctionError, find_samples
from fewstep.export.tracing.samples.single_rules import RULES

_PROPERTIES = (
    "shape size dim ndim ndimension dtype device numel is_floating_point is_complex element_size layout requires_grad "
    "is_cuda is_sparse is_quantized is_nested names is_mps is_xpu is_mkldnn len hash repr format "
    "is_meta _is_view is_contiguous grad_fn is_leaf grad stride"
)
PROPERTIES = frozenset(_PROPERTIES.split())
WITH_SELECTIONS = POINTWISE | {
    *("cat", "concat", "pad", "scaled_dot_product_attention", "getitem", "setitem", "flatten"),
    *("zeros_like", "ones_like", "empty_like"),
}


def apply_rule(func: Callable[..., Any], args: Arguments, options: Options) -> Any:
    """Return what a function of torch returns for tensors of one sample. Raises UnknownFunctionError."""
    name = name_of(func)
    if name in PROPERTIES:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **options)
    rule = RULES.get(name)
    if rule is None and name in ALONG:
        rule = apply_along
    elif rule is None and name in LEADING:
        rule = apply_to_rows
    elif rule is None and name in POINTWISE:
        rule = apply_pointwise
    if rule is None:
        raise UnknownFunctionError(f"{name} of tensors of one sample")
    samples = list(find_samples([*args, *options.values()]))
    if name not in WITH_SELECTIONS and any(sample.selection is not None for sample in samples):
        raise UnknownFunctionError(f"{name} of tokens that a mask selects")
    return rule(func, args, options, samples[0].held.shape[0])
