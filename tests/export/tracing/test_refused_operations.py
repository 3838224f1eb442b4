"""Operations without an equal ONNX form are refused, with what to write instead."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.export.tracing.operations import assert_equal_to_torch
from tests.refusals import refuses

X = torch.tensor([[3.0, 1.0, 2.0], [-1.0, -1.0, 0.5], [0.0, 4.0, -2.0]])


@pytest.mark.parametrize(
    ("name", "function", "fix"),
    [
        ("aten.cummax", lambda x: x.cummax(1)[0], "compare each element with those before it"),
        ("aten.kthvalue", lambda x: x.kthvalue(2, 1)[0], "x.sort(dim)[0].select(dim, place)"),
        ("aten.median", lambda x: x.median(1)[0], "x.sort(dim)[0].select(dim, place)"),
        ("aten.histc", lambda x: torch.histc(x, 4, 0.0, 4.0) + x[:, :1], "compare x with the edges"),
        ("aten.special_erfcx", torch.special.erfcx, "write it with other operations"),
        ("aten.searchsorted", lambda x: torch.searchsorted(torch.arange(3.0), x), "(edges < x[..., None]).sum(-1)"),
        ("aten.hstack", lambda x: torch.hstack([x, x]), "write torch.cat(tensors, dim)"),
        ("aten.dstack", lambda x: torch.dstack([x, x]), "write torch.cat(tensors, dim)"),
        ("aten.atleast_3d", lambda x: torch.atleast_3d([x, x])[0], "call it for one tensor at a time"),
        ("aten.index_reduce", lambda x: x.index_reduce(1, torch.tensor([0]), x[:, :1], "amax"), "x.scatter_reduce(dim"),
        ("aten.scatter", lambda x: x.scatter(1, x.long().abs(), x, reduce="add"), "write x.scatter_reduce(dim"),
        ("aten.diagonal", lambda x: x[:, :, None].expand(-1, 3, 3).diagonal(dim1=1, dim2=2), "for a square x"),
        ("aten.angle", lambda x: torch.complex(x, x).angle(), "write torch.atan2(z.imag, z.real)"),
        ("aten.log_sigmoid", torch.nn.functional.logsigmoid, "write -torch.nn.functional.softplus(-x)"),
        ("aten.bitwise_left_shift", lambda x: x.int().bitwise_left_shift(2), "multiply by a power of 2"),
        ("aten.__lshift__", lambda x: x.int() << 2, "multiply by a power of 2"),
    ],
)
def test_an_operation_is_refused_with_its_rewriting(name: str, function: Callable[[Tensor], Tensor], fix: str) -> None:
    with refuses(f"{name} in AllOf has no ONNX equivalent", fix):
        assert_equal_to_torch({"y": function}, X, 0.0)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("take_along_dim", lambda x: x.take_along_dim(x.argsort(1), 1)),
        ("gradient", lambda x: torch.gradient(x, dim=1)[0]),
        ("embedding_bag", lambda x: torch.nn.functional.embedding_bag(x.long().abs(), torch.ones(5, 2))),
    ],
)
def test_a_function_is_refused_where_it_is_called(name: str, function: Callable[[Tensor], Tensor]) -> None:
    with refuses(f"AllOf cannot be exported: {name} has no ONNX equivalent (test_refused_operations.py:"):
        assert_equal_to_torch({"y": function}, X, 0.0)


def test_rewritings_are_equal_to_torch() -> None:
    """The formulas that the refusals give."""
    later = torch.ones(3, 3, dtype=torch.bool).triu(1)
    edges = torch.linspace(-2, 4, 4)
    pairs = {
        "cummax": (X.cummax(1)[0], X[..., None, :].masked_fill(later, -torch.inf).amax(-1)),
        "cumprod": (X.exp().cumprod(1), torch.exp(torch.log(X.exp()).cumsum(1))),
        "logcumsumexp": (X.logcumsumexp(1), torch.log(torch.exp(X - X.amax(1, True)).cumsum(1)) + X.amax(1, True)),
        "kthvalue": (X.kthvalue(2, 1)[0], X.sort(1)[0].select(1, 1)),
        "histc": (
            torch.histc(X[0], 3, -2, 4),
            (edges[:-1, None] <= X[0]).logical_and(X[0] < edges[1:, None]).sum(-1),
        ),
        "hypot": (torch.hypot(X[0], X[1]), torch.sqrt(X[0] * X[0] + X[1] * X[1])),
        "copysign": (X[0].copysign(X[1]), torch.where(X[1] < 0, -X[0].abs(), X[0].abs())),
        "logaddexp": (
            torch.logaddexp(X[0], X[1]),
            torch.maximum(X[0], X[1]) + torch.nn.functional.softplus(-(X[0] - X[1]).abs()),
        ),
        "logaddexp2": (torch.logaddexp2(X[0], X[1]), torch.log2(torch.exp2(X[0] - 3) + torch.exp2(X[1] - 3)) + 3),
        "searchsorted": (torch.searchsorted(edges, X), (edges < X[..., None]).sum(-1)),
        "diagonal": (X.diagonal(), X.flatten(-2)[..., :: X.shape[-1] + 1]),
        "log_sigmoid": (torch.nn.functional.logsigmoid(90 * X), -torch.nn.functional.softplus(-90 * X)),
        "gradient": (torch.gradient(X, spacing=0.5, dim=1)[0][:, 1:-1], (X[..., 2:] - X[..., :-2]) / (2 * 0.5)),
        "embedding_bag": (
            torch.nn.functional.embedding_bag(X.abs().long(), X.repeat(2, 1), mode="sum"),
            torch.nn.functional.embedding(X.abs().long(), X.repeat(2, 1)).sum(1),
        ),
    }
    for name, (expected, rewritten) in pairs.items():
        torch.testing.assert_close(rewritten.to(expected.dtype), expected, msg=name, rtol=1e-6, atol=1e-6)
