"""What forward computes from sizes: numbers without the batch if it cancels, from free sizes, and lists."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep.export.tracing.capture import capture
from fewstep.graph.graph import Graph
from fewstep.graph.prepare import simplify
from fewstep.graph.session import run
from tests.export.denoisers import Tiny, source
from tests.refusals import refuses


class Normalized(nn.Module):
    """EDM2 scales by the square root of a quotient of sizes (Karras et al. 2023, arXiv 2312.02696, eq. 30)."""

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=[1], keepdim=True)
        return x / torch.add(1e-4, norm, alpha=np.sqrt(norm.numel() / x.numel()))


class NormalizedByMath(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=[1], keepdim=True)
        return x / (1e-4 + norm * math.sqrt(norm.numel() / x.numel()) * (x.shape[0] / (2 * x.shape[0])) ** 0.5)


class OfHeight(nn.Module):
    """The square root of a free size, which stays in the graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x / np.sqrt(x.shape[2]) + np.sqrt(x.shape[2] / 3)


class ListedSizes(nn.Module):
    """Lumina lists the size of each picture, and reads that of the first one."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = ([(x.shape[2], x.shape[3])] * x.shape[0])[0]
        return x.flatten(2).view(x.shape[0], -1, width, height) * 2


class ListedNumbers(nn.Module):
    """Chroma lists a time of 0 for each sample."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tensor([0.5] * x.shape[0]).view(-1, 1, 1, 1)


class WrittenNumbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        weights = torch.tensor([0.5] * x.shape[0])
        weights[0] = 2.0
        weights += 1
        return x * weights.view(-1, 1, 1, 1)


class ChangedList(Tiny):
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        weights = [0.5] * x.shape[0]
        weights[0] = 2.0
        return x * torch.tensor(weights).view(-1, 1, 1, 1)


class EachSize(Tiny):
    """Code that reads the entry of each sample, which fixes the batch."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        sizes = [(8, 8)] * x.shape[0] + [(1, 1)]
        return x * torch.tensor([height for height, _ in sizes[:-1]], dtype=torch.float32).view(-1, 1, 1, 1)


class Logarithm(Tiny):
    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return super().forward(x, time) * np.log(x.numel())


def capture_graph(module: nn.Module, height: Any = None) -> Graph:
    shapes = ({0: torch.export.Dim("batch")} | ({2: height} if height is not None else {}),)
    graph, _ = capture(module, (torch.randn(3, 4, 8, 8),), shapes, ["x"], ["y"])
    return graph


@pytest.mark.parametrize(
    "module",
    [Normalized(), pytest.param(NormalizedByMath(), marks=pytest.mark.slow)],
    ids=lambda module: type(module).__name__,
)
def test_a_quotient_that_the_batch_cancels_from_is_a_number(module: nn.Module) -> None:
    graph, x = capture_graph(module), torch.randn(5, 4, 8, 8)
    np.testing.assert_allclose(run(graph, {"x": x.numpy()})["y"], module(x).numpy(), atol=1e-6)
    assert not {"Shape", "Size"} & set(simplify(graph).ops())


def test_the_root_of_a_free_size_follows_it() -> None:
    graph, x = capture_graph(OfHeight(), height=4 * torch.export.Dim("quarter", max=8)), torch.randn(2, 4, 20, 8)
    np.testing.assert_allclose(run(graph, {"x": x.numpy()})["y"], OfHeight()(x).numpy(), atol=1e-6)


def test_the_first_entry_of_a_list_repeated_by_the_batch_leaves_the_batch_free() -> None:
    graph, x = capture_graph(ListedSizes()), torch.randn(5, 4, 8, 8)
    np.testing.assert_array_equal(run(graph, {"x": x.numpy()})["y"], ListedSizes()(x).numpy())


def test_a_tensor_of_a_number_repeated_by_the_batch_leaves_the_batch_free() -> None:
    graph, x = capture_graph(ListedNumbers()), torch.randn(5, 4, 8, 8)
    np.testing.assert_array_equal(run(graph, {"x": x.numpy()})["y"], x.numpy() + np.float32(0.5))


def test_code_may_write_to_a_tensor_of_a_number_repeated_by_the_batch() -> None:
    graph, x = capture_graph(WrittenNumbers()), torch.randn(5, 4, 8, 8)
    np.testing.assert_array_equal(run(graph, {"x": x.numpy()})["y"], WrittenNumbers()(x).numpy())


def test_a_change_of_such_a_list_fixes_the_batch() -> None:
    with refuses(("ChangedList", "fixes the batch")):
        source(ChangedList()).trace()


def test_reading_all_entries_of_such_a_list_fixes_the_batch() -> None:
    with refuses(("EachSize", "fixes the batch")):
        source(EachSize()).trace()


def test_numpy_on_sizes_is_named() -> None:
    with refuses(("Logarithm", "numpy")):
        source(Logarithm()).trace()


def test_torch_divides_as_before() -> None:
    before = torch.SymInt.__truediv__
    capture_graph(Normalized())
    assert torch.SymInt.__truediv__ is before and not hasattr(torch.SymFloat, "sqrt")
