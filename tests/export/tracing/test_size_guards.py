"""Comparisons of sizes that torch does not decide: one that is true at all sizes is no reason to refuse a network."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep.export.tracing.capture import capture
from fewstep.export.tracing.export_errors import SizeBranchError
from fewstep.graph.session import run


class Tokens(nn.Module):
    """Frames become tokens and frames again, without a copy. An addition of tensors in this layout asks for the
    remainder of 1 by their number, (length - 1) // 4 + 1, and torch does not see that it is never 0."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.linear = nn.Conv1d(2, 4, 3, stride=4, padding=1), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.down(x).transpose(1, 2)
        frames = (tokens + self.linear(tokens)).transpose(1, 2)
        return frames + torch.tanh(frames)


class PaddedIfOdd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (0, 1)) if x.shape[2] % 2 else x


class OfEither(nn.Module):
    """A comparison of two sizes that holds at 64 x 32."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if (x.shape[2] > 20) | (x.shape[3] > 200) else x


class BatchOfText(nn.Module):
    """The batch of x is written as that of another input, as in the attention of diffusers."""

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        return x.view(text.shape[0], -1, 2, 2) + text.sum()


def dynamic() -> list[dict[int, object]]:
    return [{0: torch.export.Dim("batch"), 2: torch.export.Dim("length", min=16, max=300)}]


def test_a_network_that_runs_at_every_length_is_captured() -> None:
    torch.manual_seed(0)
    module = Tokens().eval()
    graph, _ = capture(module, (torch.randn(2, 2, 64),), dynamic(), ["x"], ["output"])
    for length in (16, 17, 18, 19, 95, 300):
        x = torch.randn(1, 2, length)
        np.testing.assert_allclose(run(graph, {"x": x.numpy()})["output"], module(x).detach().numpy(), atol=1e-6)


def test_a_comparison_of_two_sizes_is_evaluated() -> None:
    sizes = {axis: torch.export.Dim(name, min=16, max=300) for axis, name in ((2, "height"), (3, "width"))}
    graph, _ = capture(OfEither(), (torch.ones(2, 1, 64, 32),), [{0: torch.export.Dim("batch"), **sizes}], ["x"], ["y"])
    x = np.ones((1, 1, 17, 201), np.float32)
    np.testing.assert_array_equal(run(graph, {"x": x})["y"], x + 1)


def test_two_batches_are_not_padding() -> None:
    batch = torch.export.Dim("batch", max=64)
    example = (torch.ones(2, 3, 4), torch.ones(2, 5))
    graph, _ = capture(BatchOfText(), example, [{0: batch}, {0: batch}], ["x", "text"], ["y"], pads=True)
    feeds = {"x": np.ones((3, 3, 4), np.float32), "text": np.zeros((3, 5), np.float32)}
    np.testing.assert_array_equal(run(graph, feeds)["y"], np.ones((3, 3, 2, 2), np.float32))


@pytest.mark.slow
def test_a_guard_that_turns_is_recorded_with_its_line_and_the_first_size() -> None:
    with pytest.raises(SizeBranchError) as refused:
        capture(PaddedIfOdd(), (torch.ones(2, 2, 64),), dynamic(), ["x"], ["output"])
    (guard,) = refused.value.guards
    assert [*guard.traced_at.values()] == [64] and [*guard.false_at.values()] == [17]
    assert "test_size_guards.py" in guard.location
