"""Code that loops over samples, or selects tokens by a mask, is equal for a batch to its code for one sample."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export.tracing.capture import capture
from fewstep.export.tracing.samples.one_sample import call_with_one_sample, use_training_form
from fewstep.export.tracing.samples.sample import UnknownFunctionError
from fewstep.graph.session import run
from tests.export.denoisers import X_SHAPE, Tiny, source
from tests.refusals import refuses

BATCH, TOKENS, WIDTH = 5, 6, 8
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(BATCH, TOKENS, WIDTH, generator=GENERATOR)
MASK = (torch.rand(BATCH, TOKENS, generator=GENERATOR) > 0.5).long()
MASK[0], MASK[1] = 0, 1


class Attended(nn.Module):
    """Mochi's attention: of the text tokens, those of a mask only, then zeros."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x.unflatten(2, (2, -1)).transpose(1, 2)
        first, text = 2 * x, x.sin()
        returned = []
        for number in range(x.shape[0]):
            row = mask[number][None, :]
            valid = torch.nonzero(row.flatten(), as_tuple=False).flatten()
            joined = torch.cat([first[number : number + 1], text[number : number + 1, :, valid, :]], dim=2)
            attended = F.scaled_dot_product_attention(joined, joined, joined)
            returned.append(F.pad(attended, (0, 0, 0, 2 * x.shape[2] - attended.size(2))))
        return torch.cat(returned).transpose(1, 2).flatten(2)


class Reordered(nn.Module):
    """HunyuanImage's order of two texts: their valid tokens, and then the others."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        returned = []
        for one, other, own in zip(x, x.cos(), mask.bool(), strict=True):
            mine = ~own
            kept = torch.zeros_like(other[~mine])
            returned.append(torch.cat([other[mine], one[own], kept, one[~own]]))
        return torch.stack(returned)


class Experts(nn.Module):
    """HiDream's experts, which compute with numpy for inference."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.gate = nn.Linear(WIDTH, 3)
            self.experts = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU()) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        tokens = x.view(-1, WIDTH)
        weights, chosen = torch.topk(self.gate(tokens).softmax(-1), k=2, dim=-1)
        if not self.training:
            chosen.numpy()
        tokens, places = tokens.repeat_interleave(2, dim=0), chosen.view(-1)
        y = torch.empty_like(tokens)
        for number, expert in enumerate(self.experts):
            y[places == number] = expert(tokens[places == number])
        return (y.view(*weights.shape, -1) * weights.unsqueeze(-1)).sum(1).view(x.shape)


class Constants(nn.Module):
    """HunyuanVideo15 tests whether its picture is all zeros, and masks all of it. HiDream loops over constant sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = torch.zeros(1, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        picture = self.picture.expand(x.shape[0], -1)
        x = 2 * x if torch.all(picture == 0) else x
        sizes = torch.tensor([2, 3]).unsqueeze(0).repeat(x.shape[0], 1)
        none = torch.zeros(TOKENS, dtype=torch.bool)
        x = torch.stack([torch.cat([row[none], row[~none]]) for row in x])
        rows = [row[: height * width].reshape(1, 2, 3, -1) for row, (height, width) in zip(x, sizes, strict=True)]
        return torch.cat(rows)


class LoopingDenoiser(Tiny):
    """A loop over samples, which would fix the batch."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = super().forward(x, time)
        return torch.cat([row.flip(1).unsqueeze(0) for row in h])


class WrittenWeights(Tiny):
    """A loop over samples that puts weights into a tensor of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.of_channel = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scales = torch.zeros(2)
        scales[1:] = self.of_channel
        return torch.stack([row * scales[:, None, None] for row in super().forward(x, time)])


class TwiceRefused(LoopingDenoiser):
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return super().forward(torch.fft.fft2(x).real, time)


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, mask: Tensor) -> Any:
        return self.function(x)


def call(module: nn.Module, *inputs: Tensor) -> Any:
    with torch.no_grad():
        return module(*inputs)


@pytest.mark.parametrize(
    "module", [Attended(), Reordered(), Experts().train(), Constants()], ids=lambda each: type(each).__name__
)
def test_the_code_of_one_sample_is_that_of_a_batch(module: nn.Module) -> None:
    expected = torch.cat([call(module, X[n : n + 1], MASK[n : n + 1]) for n in range(BATCH)])
    with call_with_one_sample(module):
        torch.testing.assert_close(call(module, X, MASK), expected, atol=1e-6, rtol=0)


SLOW = [pytest.param(each, marks=pytest.mark.slow) for each in (Attended(), Constants())]


@pytest.mark.slow
@pytest.mark.parametrize("module", [Reordered(), *SLOW], ids=lambda each: type(each).__name__)
def test_its_graph_serves_any_batch(module: nn.Module) -> None:
    batch = torch.export.Dim("batch")
    with call_with_one_sample(module):
        graph, _ = capture(module, (X[:3], MASK[:3]), ({0: batch}, {0: batch}), ["x", "mask"], ["y"])
    feeds = {
        name: each.numpy()
        for name, each in zip(("x", "mask"), (X, MASK), strict=True)
        if name in {value.name for value in graph.inputs}
    }
    np.testing.assert_allclose(run(graph, feeds)["y"], call(module, X, MASK).numpy(), atol=1e-6)


FUNCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "axes": lambda x: x.mean((1, 2), keepdim=True) + x.softmax(-1).sum(1, keepdim=True) + x.amax(-1, keepdim=True),
    "shapes": lambda x: (
        x.permute(0, 2, 1).unflatten(1, (2, -1)).flatten(0, 1).reshape(1, -1).repeat(1, 2).expand(1, -1)
    ),
    "parts": lambda x: torch.cat([*x.chunk(2, dim=2), x[..., None, 1:3].squeeze(2)], -1).transpose(-1, -2),
    "products": lambda x: torch.einsum("bnc,bmc->bnm", x, x) + x @ x.transpose(1, 2) + torch.bmm(x, x.mT),
    "images": lambda x: F.group_norm(F.conv1d(x, torch.ones(4, TOKENS, 3), padding=1), 2),
    "padded": lambda x: F.pad(x, (1, 2), value=3.0) * nn.utils.rnn.pad_sequence([x[0, 0, :1]], batch_first=True),
    "made": lambda x: x.new_zeros(1, 3) + torch.ones_like(x[:, 0, :3]) + torch.zeros(3),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_one_sample_are_those_of_each(name: str) -> None:
    module = Function(FUNCTIONS[name])
    expected = torch.cat([call(module, X[n : n + 1], MASK) for n in range(BATCH)])
    with call_with_one_sample(module):
        torch.testing.assert_close(call(module, X, MASK), expected, atol=1e-5, rtol=0)


def test_what_was_written_to_elements_is_kept() -> None:
    def write(x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 0] = 7.0
        return y

    module = Function(write)
    with call_with_one_sample(module):
        torch.testing.assert_close(call(module, X, MASK), write(X))


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: torch.fft.fft(x), "fft_fft"),
        (lambda x: x if x.sum() > 0 else -x, "of tensors of one sample"),
        (lambda x: x[0][x[0, :, 0] > 0].flip(0), "flip of tokens that a mask selects"),
        (lambda x: x[0][x[0, :, 0] > 0] + x[0][x[0, :, 1] > 0], "add of different selections"),
    ],
)
def test_functions_without_a_rule_are_refused(function: Callable[[Tensor], Tensor], name: str) -> None:
    module = Function(function)
    with call_with_one_sample(module), pytest.raises(UnknownFunctionError, match=name):
        call(module, X, MASK)


@pytest.mark.slow
@pytest.mark.parametrize("made", [LoopingDenoiser, WrittenWeights])
def test_a_denoiser_that_loops_over_samples_is_traced_for_one_sample(made: Callable[[], nn.Module]) -> None:
    module = made()
    traced = replace(source(module), loops_over_samples=True).trace()
    x, time = torch.randn(BATCH, *X_SHAPE, generator=GENERATOR), torch.arange(BATCH) * 100.0
    expected = call(module, x, time).detach().numpy()
    found = run(traced.graph, {"x": x.numpy(), "time": time.numpy()})
    np.testing.assert_allclose(next(iter(found.values())), expected, atol=1e-6)


@pytest.mark.slow
def test_a_denoiser_that_is_not_traced_for_one_sample_either_is_refused_for_its_first_reason() -> None:
    with refuses(("TwiceRefused", "fixes the batch")):
        replace(source(TwiceRefused()), loops_over_samples=True).trace()


def test_the_training_form_is_that_of_all_modules_of_the_class_and_ends_with_the_block() -> None:
    module = nn.Sequential(Experts(), Experts(), nn.Dropout()).eval()
    with use_training_form(module, "1"):
        assert [each.training for each in module] == [True, True, False] and not module[0].gate.training
    assert not any(layer.training for layer in module.modules())
