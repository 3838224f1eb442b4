"""Networks whose operations depend on free sizes: the multiple or the range that they need is named."""

import numpy as np
import pytest
import torch
from torch import nn

from fewstep.export import Condition, ScheduleSpec, Size, Spec
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.trace import trace
from fewstep.graph.session import run
from tests.export.verify_export import verify_source
from tests.refusals import refuses

pytestmark = pytest.mark.slow


class Quarters(nn.Module):
    """A network that needs multiples of 4, and runs at the smallest and largest sizes of its range."""

    def forward(self, x, time):
        parts = x.reshape(x.shape[0], 1, x.shape[2] // 4, 4, x.shape[3])
        return (parts - parts.mean(3, keepdim=True)).reshape(x.shape) + time[:, None, None, None]


def test_the_multiple_that_a_network_needs_is_named() -> None:
    sizes = (Size("height", 1, low=8, high=32, multiple=2), Size("width", 2, low=8, high=32))
    spec = Spec("fixed", (1, 16, 16), (), "v", ScheduleSpec("cosine"), sizes=sizes)
    with refuses(("Quarters failed at height 14", "test_free_sizes.py"), "as in height=8:32:4 (LOW:HIGH:MULTIPLE"):
        trace(Quarters(), spec)


class Joined(nn.Module):
    """A network of a text with as many positions as x."""

    def forward(self, x, time, text):
        return torch.cat([x, text], 1)[:, :4] * time[:, None, None]


class OfOneLength(nn.Module):
    def forward(self, x, time, text):
        return (x.transpose(1, 2) @ torch.ones(4, 4)).transpose(1, 2) + torch.ones(24) * time[:, None, None]


def test_a_condition_that_should_follow_a_size_is_named() -> None:
    """A multiple does not help: the text has one length."""
    text = Condition("text", "text", (6, 24), "float32", typical=(-1, 1))
    spec = Spec("sound", (4, 24), (text,), "flow", ScheduleSpec("flow"), sizes=(Size("frames", 1, 8, 64),))
    with refuses("Joined failed at frames 8", "give condition 'text' follows={1: \"frames\"}"):
        trace(Joined(), spec)
    with refuses("OfOneLength failed at frames 8", "give no sizes, or export that size only"):
        trace(OfOneLength(), spec)


class Padded(nn.Module):
    """Windows of 4 rows, with padding where the height is no multiple of 4."""

    def forward(self, x, time):
        height, more = x.shape[2], (-x.shape[2]) % 4
        rows = nn.functional.pad(x, (0, 0, 0, more)).reshape(x.shape[0], 1, -(-height // 4), 4, x.shape[3])
        return (rows - rows.mean(3, keepdim=True)).flatten(2, 3)[:, :, :height] + time[:, None, None, None]


class PaddedIfNeeded(nn.Module):
    """Windows of 8 rows. The padding is code that runs at some heights only."""

    def forward(self, x, time):
        height = x.shape[2]
        if height % 8:
            x = nn.functional.pad(x, (0, 0, 0, 8 - height % 8))
        rows = x.reshape(x.shape[0], 1, x.shape[2] // 8, 8, x.shape[3])
        return (rows - rows.mean(3, keepdim=True)).flatten(2, 3)[:, :, :height] + time[:, None, None, None]


class LargeBatch(nn.Module):
    def forward(self, x, time):
        return (2 * x if x.shape[0] > 4 else x) + time[:, None, None, None]


class FromSixteen(nn.Module):
    """Code that would do other operations on fewer than 16 rows."""

    def forward(self, x, time):
        return torch.cat([2 * x[:, :, :16], x[:, :, 16:]], 2) + time[:, None, None, None]


class InParts(nn.Module):
    def forward(self, x, time):
        first, second = x.chunk(2, 2)
        return torch.cat([second, 2 * first], 2) + time[:, None, None, None]


def spec_of_heights(low: int, high: int, multiple: int = 1) -> Spec:
    height = Size("height", 1, low=low, high=high, multiple=multiple)
    return Spec("heights", (1, 24, 6), (), "v", ScheduleSpec("cosine"), sizes=(height,))


@pytest.mark.parametrize(
    ("module", "fix"), [(Padded(), "as in height=8:32:4 (LOW"), (FromSixteen(), "as in height=16:32 (LOW")]
)
def test_a_range_in_which_the_operations_differ_is_refused(module: nn.Module, fix: str) -> None:
    with refuses(f"{type(module).__name__} does other operations at some values of height", fix):
        trace(module, spec_of_heights(6, 32))


def test_the_line_that_decides_is_named_with_a_size_at_which_it_turns() -> None:
    turns = ("test_free_sizes.py", "(height % 8) == 0 is false at height 9")
    with refuses(turns, "as in height=8:32:8 (LOW"):
        trace(PaddedIfNeeded(), spec_of_heights(8, 32))


def test_a_range_that_is_still_refused_needs_a_multiple() -> None:
    with refuses("FromSixteen does other operations at some values of height", "as in height=16:32:2 (LOW"):
        trace(FromSixteen(), spec_of_heights(16, 32))


def test_a_default_that_is_no_multiple_is_named_with_the_multiple() -> None:
    spec = Spec("a", (1, 22, 6), (), "v", ScheduleSpec("cosine"), sizes=(Size("height", 1, low=6, high=32),))
    fix = "give x_shape a height that is a multiple of 4, and Size a multiple, as in height=8:32:4"
    with refuses("Padded does other operations at some values of height", fix):
        trace(Padded(), spec)


def test_sizes_are_not_named_where_the_batch_decides() -> None:
    with refuses("LargeBatch cannot be exported: it does other operations at some numbers of samples", "x.shape[0]"):
        trace(LargeBatch(), spec_of_heights(6, 32))


@pytest.mark.slow
def test_a_graph_that_pads_at_some_sizes_only_is_refused() -> None:
    """The default, the smallest and the largest height need no padding."""
    source = TorchSource(PaddedIfNeeded(), spec_of_heights(8, 32, 2), "a", "0" * 64)
    with refuses(("graph of PaddedIfNeeded does not run at", "height 22", "Reshape"), "give Size that multiple"):
        verify_source(source)


@pytest.mark.parametrize(("module", "multiple", "height"), [(Padded(), 3, 27), (InParts(), 2, 28)])
def test_at_multiples_only_they_are_the_same(module: nn.Module, multiple: int, height: int) -> None:
    traced = trace(module, spec_of_heights(12, 30, multiple))
    feeds = {
        "x": np.random.default_rng(0).normal(size=(2, 1, height, 6)).astype(np.float32),
        "time": np.ones(2, np.float32),
    }
    expected = module(*map(torch.from_numpy, feeds.values())).numpy()
    np.testing.assert_allclose(run(traced.graph, feeds)["output"], expected, atol=1e-5)


def test_a_size_of_one_value_is_refused() -> None:
    with refuses("size height has one value, 24", "leave it out of sizes"):
        trace(InParts(), spec_of_heights(24, 24))
