"""Operations that export refuses, each with the operations to write instead.

torch.onnx cannot write them, or writes a graph that differs from torch at NaN, ties, zeros, edges, large numbers or
rounded quotients, or a loop over a list. No denoiser, encoder or decoder of diffusers, LeRobot, timm or the code bases
in `.ci/codebases.txt` contains one.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from fewstep.export.error_text import OTHER_OPERATIONS, MissingForm
from fewstep.plans.errors import UserError

ATEN = torch.ops.aten
RUNNING = "compare each element with those before it: x[..., None, :].masked_fill(later, limit).amax(-1)"
SORTED = "take an element of the sorted rows: x.sort(dim)[0].select(dim, place)"
COUNTED = "compare x with the edges and sum: (edges[:-1, None] <= x).logical_and(x < edges[1:, None]).sum(-1)"
JOINED = "write torch.cat(tensors, dim)"
SCATTERED = 'write x.scatter_reduce(dim, indices, source, "sum"), or "prod"'
MEAN = "divide the sum by the number of elements: that of torch.ones_like(source), scattered to the same indices"
PART = "scatter a part of it: source.narrow(dim, 0, indices.shape[dim])"
DIFFERENCES = "divide differences of slices by the step: (x[..., 2:] - x[..., :-2]) / (2 * step)"
OPERATIONS: dict[torch._ops.OpOverloadPacket | torch._ops.OpOverload, str] = {
    ATEN.cummax: RUNNING,
    ATEN.cummin: RUNNING,
    ATEN.cumprod: "for positive x write torch.exp(torch.log(x).cumsum(dim))",
    ATEN.logcumsumexp: "write torch.log(torch.exp(x - x.amax(dim, True)).cumsum(dim)) + x.amax(dim, True)",
    ATEN.kthvalue: SORTED,
    ATEN.median: SORTED,
    ATEN.nanmedian: SORTED,
    ATEN.mode: "compare all pairs, x[..., None] == x[..., None, :], and sum",
    ATEN.histc: COUNTED,
    ATEN.searchsorted: "compare x with the edges and sum: (edges < x[..., None]).sum(-1)",
    ATEN.hstack: JOINED,
    ATEN.vstack: JOINED,
    ATEN.dstack: JOINED,
    ATEN.column_stack: JOINED,
    ATEN.atleast_1d.Sequence: "call it for one tensor at a time",
    ATEN.atleast_2d.Sequence: "call it for one tensor at a time",
    ATEN.atleast_3d.Sequence: "call it for one tensor at a time",
    ATEN.index_reduce: "expand the indices, and write x.scatter_reduce(dim, indices, source, reduce)",
    ATEN.scatter.reduce: SCATTERED,
    ATEN.scatter.value_reduce: SCATTERED,
    ATEN.diagonal: "for a square x write x.flatten(-2)[..., :: x.shape[-1] + 1]",
    ATEN.angle: "write torch.atan2(z.imag, z.real)",
    ATEN.log_sigmoid: "write -torch.nn.functional.softplus(-x)",
    ATEN.hypot: "write torch.sqrt(a * a + b * b)",
    ATEN.fmax: "write torch.maximum(a, b)",
    ATEN.fmin: "write torch.minimum(a, b)",
    ATEN.copysign: "write torch.where(b < 0, -a.abs(), a.abs())",
    ATEN.signbit: "write x < 0",
    ATEN.logaddexp: "write torch.maximum(a, b) + torch.nn.functional.softplus(-(a - b).abs())",
    ATEN.logaddexp2: "write torch.log2(torch.exp2(a - c) + torch.exp2(b - c)) + c with c = torch.maximum(a, b)",
    ATEN.__lshift__: "multiply by a power of 2",
    ATEN.bitwise_left_shift: "multiply by a power of 2",
    ATEN.special_erfcx: OTHER_OPERATIONS,
    ATEN.special_log_ndtr: OTHER_OPERATIONS,
}
FUNCTIONS: dict[Callable[..., object], str] = {
    torch.take_along_dim: "expand both tensors, and write x.gather(dim, indices)",
    Tensor.take_along_dim: "expand both tensors, and write x.gather(dim, indices)",
    torch.gradient: DIFFERENCES,
    torch.nn.functional.embedding_bag: "sum torch.nn.functional.embedding(indices, weight) over axis 1",
}


def _refuse_operation(fix: str, *args: object, **options: object) -> NoReturn:
    raise MissingForm(fix=fix)


def _refuse_function(name: str, fix: str, *args: object, **options: object) -> NoReturn:
    raise UserError(f"{name} has no ONNX equivalent", fix)


def _average_pool(
    x: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Refuse a divisor, which torch.onnx ignores."""
    if divisor_override is None:
        return NotImplemented
    raise MissingForm(" with divisor_override", "multiply the mean by the elements of a window / divisor")


def _scatter(x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str = "", **options: Any) -> Any:
    """Refuse means, which ONNX does not have, and a source that is larger than its indices, which ONNX refuses."""
    if reduce == "mean":
        raise MissingForm(" of means", MEAN)
    sizes = zip(source.shape, index.shape, strict=False)  # a number has no axis
    if any(isinstance(size, int) and size != part for size, part in sizes):
        raise MissingForm(" with a source larger than its indices", PART)
    return NotImplemented


def _list_overloads(operation: torch._ops.OpOverloadPacket | torch._ops.OpOverload) -> list[torch._ops.OpOverload]:
    if isinstance(operation, torch._ops.OpOverload):
        return [operation]
    return [getattr(operation, overload) for overload in operation.overloads()]


REFUSED_OPERATIONS: dict[Any, Callable[..., Any]] = {
    **{
        each: partial(_refuse_operation, fix)
        for operation, fix in OPERATIONS.items()
        for each in _list_overloads(operation)
    },
    ATEN.avg_pool2d.default: _average_pool,
    ATEN.avg_pool3d.default: _average_pool,
    ATEN.scatter.src: _scatter,
    ATEN.scatter_add.default: _scatter,
    ATEN.scatter_reduce.two: _scatter,
}
REFUSED_FUNCTIONS = {function: partial(_refuse_function, function.__name__, fix) for function, fix in FUNCTIONS.items()}
