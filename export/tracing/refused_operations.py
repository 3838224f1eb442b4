"""Operations that export refuses, each with the operations to write instead.

torch.onnx cannot write them, or writes a graph that differs from torch at NaN, ties, zeros, edges or large numbers. No
denoiser, encoder or decoder of diffusers, LeRobot, timm or the code bases in `.ci/codebases.txt` contains one.
"""

from collections.abc import Callable
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor

from fewstep.export.error_text import OTHER_OPERATIONS, MissingForm
from fewstep.plans.errors import UserError

ATEN = torch.ops.aten
RUNNING = "compare each element with those before it: x[..., None, :].masked_fill(later, limit).amax(-1)"
SORTED = "take an element of the sorted rows: x.sort(dim)[0].select(dim, place)"
COUNTED = "compare x with the edges and sum: (edges[:-1, None] <= x).logical_and(x < edges[1:, None]).sum(-1)"
DIFFERENCES = "divide differences of slices by the step: (x[..., 2:] - x[..., :-2]) / (2 * step)"
OPERATIONS: dict[torch._ops.OpOverloadPacket, str] = {
    ATEN.cummax: RUNNING,
    ATEN.cummin: RUNNING,
    ATEN.cumprod: "for positive x write torch.exp(torch.log(x).cumsum(dim))",
    ATEN.logcumsumexp: "write torch.log(torch.exp(x - x.amax(dim, True)).cumsum(dim)) + x.amax(dim, True)",
    ATEN.kthvalue: SORTED,
    ATEN.median: SORTED,
    ATEN.nanmedian: SORTED,
    ATEN.mode: "compare all pairs, x[..., None] == x[..., None, :], and sum",
    ATEN.histc: COUNTED,
    ATEN.hypot: "write torch.sqrt(a * a + b * b)",
    ATEN.fmax: "write torch.maximum(a, b)",
    ATEN.fmin: "write torch.minimum(a, b)",
    ATEN.copysign: "write torch.where(b < 0, -a.abs(), a.abs())",
    ATEN.signbit: "write x < 0",
    ATEN.logaddexp: "write torch.maximum(a, b) + torch.log1p(torch.exp(-(a - b).abs()))",
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


REFUSED_OPERATIONS = {
    getattr(operation, overload): partial(_refuse_operation, fix)
    for operation, fix in OPERATIONS.items()
    for overload in operation.overloads()
}
REFUSED_FUNCTIONS = {function: partial(_refuse_function, function.__name__, fix) for function, fix in FUNCTIONS.items()}
