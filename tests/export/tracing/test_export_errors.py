"""A module that cannot be exported gives one line: the module, the line of its code, and a replacement."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep.export.graph_warnings import warn_of_operations
from fewstep.export.tracing.export_errors import CallWatch, explain_export_error
from fewstep.plans.errors import UserError
from tests.export.denoisers import Tiny, source
from tests.export.verify_export import verify_source

torch.library.define("fewsteptests::own", "(Tensor x) -> Tensor")
torch.library.impl("fewsteptests::own", "cpu")(lambda x: x * 2)
torch.library.register_fake("fewsteptests::own")(torch.empty_like)


class Net(Tiny):
    """A convolution, followed by a block that may not be exportable."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Identity(), block])

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = super().forward(x, time)
        for block in self.blocks:
            h = block(h)
        return h


class First(Tiny):
    """The block before."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return super().forward(self.block(x), time)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)


class Branching(Block):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = x * 2
        return self.conv(x)


class Looping(Block):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(int(x.abs().max())):
            x = x * 0.5
        return self.conv(x)


class Listing(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * len([value for value in x.flatten().tolist() if value > 0])


class WithNumpy(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * float(np.abs(x.numpy()).max())


class Item(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * x.mean().item()


class Selecting(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * x[x > 0].mean()


class Noisy(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + torch.randn_like(x)


class Dropping(Block):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.conv(x), 0.5)  # without the flag that it is not training


class Changing(Block):
    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2)
        return self.conv(x)


class ThreeOnly(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).reshape(3, 2, 4, 4)


class Eigen(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * torch.linalg.eigvalsh(x[:, 0] @ x[:, 0].mT)[:, None, :, None]


class OwnOperation(Block):
    def forward(self, x: Tensor) -> Tensor:
        own: Any = torch.ops.fewsteptests.own
        return own(self.conv(x))


class Address(Block):
    """Something that torch cannot trace, without a known fix."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * (x.data_ptr() != 0)


def look_at_address(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output * (output.data_ptr() != 0)


class Hooked(Block):
    def __init__(self) -> None:
        super().__init__()
        self.conv.register_forward_hook(look_at_address)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Flex(Block):
    def forward(self, x: Tensor) -> Tensor:
        from torch.nn.attention.flex_attention import flex_attention

        h = self.conv(x)
        made: Any = flex_attention(h, h, h, score_mod=lambda score, b, head, i, j: score - 0.1 * (i - j).abs())
        return made


class Gammas(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.lgamma(x.abs() + 1))


class LogNdtr(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.special.log_ndtr(x))


class DividedPool(Block):
    def forward(self, x: Tensor) -> Tensor:
        pooled = nn.functional.avg_pool2d(x, 3, 1, 1, divisor_override=2)
        return self.conv(pooled)


class KernelOfEachSample(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)  # torch leaves out its groups
        size = x.shape[0] * x.shape[1]
        kernels = x.mean((2, 3)).reshape(size, 1, 1, 1)
        return nn.functional.conv2d(x.reshape(1, size, *x.shape[2:]), kernels, groups=size).reshape(x.shape)


class RollByBatch(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.roll(self.conv(x), x.shape[0], 3)


class Shifted(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fftshift(torch.fft.fft2(self.conv(x)))).real


class Counting(Block):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.conv(x) + self.calls


class Slope(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.gradient(x, dim=3)[0])


class OwnGradient(Block):
    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.conv(x).square().sum(), x)[0]


class InBfloat16(Block):
    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x).bfloat16() * 1.1).float()


class InFloat16(Block):
    def forward(self, x: Tensor) -> Tensor:
        return (self.conv(x).half() * 1.1).float()


class InFloat64(Block):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight.double()
        return nn.functional.conv2d(x.double(), weight).float()


ON_VALUES = (
    "it branches or loops on values (test_export_errors.py:N); "
    "compute both ways and choose with torch.where, or fix the"
)
RANDOM = "at time 332, batch 4; remove its random draws: the sampler draws the noise"
NO_FORM = "; write it with other operations, or leave it to what runs before the network"

HERE = "test_export_errors.py:N"

SAID = [
    (Branching, f"blocks.1 (Branching) of Net cannot be exported: {ON_VALUES}"),
    (Looping, f"blocks.1 (Looping) of Net cannot be exported: {ON_VALUES}"),
    (Listing, f"blocks.1 (Listing) of Net cannot be exported: {ON_VALUES}"),
    (
        WithNumpy,
        "blocks.1 (WithNumpy) of Net cannot be exported: it computes with numpy (test_export_errors.py:N); compute",
    ),
    (Item, "Net returns a different output for a sample alone than in its batch, at time 332, batch 4, from node"),
    (Selecting, "than in its batch, at time 332, batch 4, from node 'output' (blocks.1/Mul) on; remove"),
    (Noisy, f"each time (aten.randn_like in blocks.1 (Noisy) of Net (test_export_errors.py:N)), {RANDOM}"),
    (Dropping, "draws random numbers (aten.native_dropout in blocks.1 (Dropping) of Net (test_export_errors.py:N))"),
    (Changing, "block (Changing) of First changes its input in place; create a new tensor, like x = x"),
    (ThreeOnly, f"blocks.1 (ThreeOnly) of Net fixes the batch ({HERE}: return self.conv(x).reshape(3, 2, 4, 4)); use"),
    (Eigen, f"eigh in blocks.1 (Eigen) of Net has no ONNX equivalent (test_export_errors.py:N){NO_FORM}"),
    (Gammas, f"aten.lgamma in blocks.1 (Gammas) of Net has no ONNX equivalent (test_export_errors.py:N){NO_FORM}"),
    (
        LogNdtr,
        f"aten.special_log_ndtr in blocks.1 (LogNdtr) of Net has no ONNX equivalent (test_export_errors.py:N){NO_FORM}",
    ),
    (
        DividedPool,
        "aten.avg_pool2d with divisor_override in blocks.1 (DividedPool) of Net has no ONNX equivalent",
    ),
    (
        Slope,
        "blocks.1 (Slope) of Net cannot be exported: gradient has no ONNX equivalent (test_export_errors.py:N); divide",
    ),
    (OwnGradient, "blocks.1 (OwnGradient) of Net cannot be exported: it computes a gradient with torch.autograd, "),
    (
        KernelOfEachSample,
        "aten.conv2d in blocks.1 (KernelOfEachSample) of Net has as many groups as the batch (test_export_errors.py:N)",
    ),
    (
        RollByBatch,
        "aten.roll in blocks.1 (RollByBatch) of Net shifts by a number that depends on the batch or on a size "
        "(test_export_errors.py:N); join two slices",
    ),
    (Shifted, "aten.fft_fftshift in blocks.1 (Shifted) of Net shifts the samples of a batch (test_export_errors.py:N)"),
    (Counting, "Net returns a different output each time (it changes buffer 'blocks.1.calls' in each call), at time "),
    (InBfloat16, "(blocks.1/Mul) computes in bfloat16, and onnxruntime "),
    (InFloat64, "(blocks.1/Conv) computes in float64, and onnxruntime "),
    (InFloat16, "(blocks.1/Mul) on: 0.0"),
    (InFloat16, "; it computes in float16, which engines round at different points: compute it in float32"),
    (Address, "blocks.1 (Address) of Net cannot be exported: "),
    (Hooked, "(test_export_errors.py:N); export it without its hook look_at_address (on blocks.1.conv)"),
    (Flex, "flex_attention in blocks.1 (Flex) of Net has no ONNX equivalent (test_export_errors.py:N); use scaled_dot"),
    (OwnOperation, "fewsteptests.own in blocks.1 (OwnOperation) of Net has no ONNX equivalent (test_"),
]
QUICK = (Branching, OwnGradient, ThreeOnly, Eigen, Hooked, InFloat16)


@pytest.mark.parametrize(
    ("block", "says"),
    [pytest.param(*row, marks=[pytest.mark.slow] * (row[0] not in QUICK), id=row[0].__name__) for row in SAID],
)
def test_what_cannot_be_exported(block: type[Block], says: str) -> None:
    module = First(block()) if block is Changing else Net(block())
    with pytest.raises(UserError) as failure:
        verify_source(source(module))
    stated = re.sub(r"\.py:\d+", ".py:N", re.sub(r"line \d+", "line N", str(failure.value)))
    assert says in stated and "\n" not in stated


def test_a_failure_of_no_known_kind_has_no_fix() -> None:
    with pytest.raises(UserError, match=r"data pointer") as failure:
        verify_source(source(Net(Address())))
    assert failure.value.fix == "" and str(failure.value) == failure.value.what


class Attention(torch.autograd.Function):
    """Weights of attention with a custom backward pass, as in published EDM networks."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor) -> Tensor:  # type: ignore[override]
        w = torch.einsum("ncq,nck->nqk", q.float(), (k / np.sqrt(k.shape[1])).float()).softmax(dim=2).to(q.dtype)
        ctx.save_for_backward(q, k, w)
        return w


class WithFunction(Block):
    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x).flatten(2)
        return torch.einsum("nqk,nck->ncq", Attention.apply(h, 2 * h), h).reshape(*x.shape)


class WithTiles(Block):
    """Resizing as in those networks: a filter that is tiled in forward, and a branch on channels."""

    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("line", line.ger(line)[None, None] / line.sum() ** 2)

    def forward(self, x: Tensor) -> Tensor:
        filter = self.line.to(x.dtype)
        h = nn.functional.conv2d(x, filter.tile([2, 1, 1, 1]), groups=2, stride=2, padding=1)
        h = nn.functional.conv_transpose2d(h, filter.mul(4).tile([2, 1, 1, 1]), groups=2, stride=2, padding=1)
        return torch.cat([h, x], dim=1) if h.shape[1] != self.conv.in_channels else self.conv(h)


class WithSwaps(Block):
    """The time embedding of those networks: an outer product, sine and cosine, and both swapped."""

    def forward(self, x: Tensor) -> Tensor:
        emb = x[:, 0, 0, 0].ger(torch.tensor([1.0]))
        emb = torch.cat([emb.cos(), emb.sin()], dim=1)
        emb = emb.reshape(emb.shape[0], 2, -1).flip(1).reshape(*emb.shape)
        return self.conv(x) + emb.unsqueeze(2).unsqueeze(3)


class WithEinsum(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.einsum("bchw,cd->bdhw", x, torch.eye(2) + 0.5))


class WithComplex(Block):
    def forward(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(self.conv(x).reshape(-1, 2, 8, 2).contiguous())
        return torch.view_as_real(pairs * (1 + 1j)).reshape(x.shape)


@pytest.mark.slow
@pytest.mark.parametrize("block", [WithFunction, WithTiles, WithSwaps, WithEinsum, WithComplex])
def test_what_looks_as_if_it_could_not_but_can(block: type[Block]) -> None:
    prepared, table = verify_source(source(Net(block())))
    assert table.worst.relative < 1e-5
    body = prepared.body
    assert not {"Einsum", "Tile", "Where", "Shape"} & set(body.ops())
    filters = [node.inputs[1] for node in body.nodes if node.op == "ConvTranspose"]
    assert len(filters) == (block is WithTiles) and all(map(body.is_constant, filters))


class WithFourier(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(self.conv(x)), s=x.shape[-2:])


@pytest.mark.slow
def test_a_fourier_transform_is_exported_and_no_engine_takes_it(caplog: pytest.LogCaptureFixture) -> None:
    prepared, table = verify_source(source(Net(WithFourier())))
    assert table.worst.relative < 1e-5
    warn_of_operations(prepared)
    assert any(re.match(r"no TensorRT parses DFT, of node 'blocks.1/DFT", record.message) for record in caplog.records)


def test_the_module_is_left_as_it_was() -> None:
    net = Net(Branching())
    with pytest.raises(UserError):
        source(net).trace()
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in net.modules())


def test_errors_that_are_causes_of_each_other_are_explained() -> None:
    """ZImage's trace with a batch ends with such errors, of which the last one names the reason."""
    first, second = RuntimeError("outer"), RuntimeError("data-dependent")
    first.__cause__, second.__context__ = second, first
    refused = explain_export_error(first, CallWatch(Tiny()), None)
    assert "branches or loops on values" in refused.what


def test_arguments_that_torch_export_has_no_form_for_are_named() -> None:
    error = RuntimeError("Cannot find a compatible OpOverload for aten.clamp with the provided arguments. Tried:\n ...")
    refused = explain_export_error(error, CallWatch(Tiny()), None)
    assert refused.what.endswith("torch.export finds no form of clamp for its arguments") and "one type" in refused.fix
