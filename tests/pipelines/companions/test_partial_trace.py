"""A trace of a part of some code."""

import torch
from torch import Tensor, nn

from fewstep.pipelines.companions.partial_trace import TraceOfValues, pause_trace


class Writing(nn.Module):
    """Writes x into the first columns of a state, twice, and reads all of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = [torch.arange(6.0).reshape(1, 6)]  # no buffer, as a variable of a call

    def forward(self, x: Tensor) -> Tensor:
        state = self.rows[0].clone() if not torch.compiler.is_exporting() else self.rows[0]
        with TraceOfValues({}):
            state[:, :2] = x
            state[:, 1:3] = 2 * x
            return state * 3


def test_the_graph_computes_what_the_code_does() -> None:
    x = torch.tensor([[5.0, 7.0]])
    module = Writing()
    program = torch.export.export(module, (torch.zeros(1, 2),), strict=False)
    expected = torch.tensor([[15.0, 30.0, 42.0, 9.0, 12.0, 15.0]])
    torch.testing.assert_close(program.module()(x), expected)
    torch.testing.assert_close(module(x), expected)


class Masking(nn.Module):
    """Makes a mask with `vmap` before the traced part, as encoders of transformers do."""

    def forward(self, x: Tensor) -> Tensor:
        with pause_trace():
            rows = torch.arange(3)
            mask = torch.vmap(torch.vmap(torch.ge, (None, 0)), (0, None))(rows, rows)
        return x * mask


def test_code_before_the_traced_part_may_use_vmap() -> None:
    program = torch.export.export(Masking(), (torch.zeros(3, 3),), strict=False)
    torch.testing.assert_close(program.module()(torch.ones(3, 3)), torch.ones(3, 3).tril())


class Placing(nn.Module):
    """Puts x at places whose largest one is the size of the result, as FLUX.2 unpacks its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.places = [torch.tensor([2, 0])]

    def forward(self, x: Tensor) -> Tensor:
        with TraceOfValues({}):
            row = torch.zeros(torch.max(self.places[0]) + 1)
            row.scatter_(0, self.places[0], x)
            return 2 * row


def test_a_size_may_follow_from_values_that_are_not_traced() -> None:
    program = torch.export.export(Placing(), (torch.zeros(2),), strict=False)
    torch.testing.assert_close(program.module()(torch.tensor([5.0, 7.0])), torch.tensor([14.0, 0.0, 10.0]))


class Joining(nn.Module):
    """Puts x after a first frame, whose elements the code has in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = [torch.tensor([[1.0, 2.0, 0.0], [3.0, 4.0, 0.0]]), torch.tensor([1.0, 3.0, 2.0, 4.0, 0.0])]

    def forward(self, x: Tensor, frame: Tensor) -> Tensor:
        with TraceOfValues({"frame": (self.frames[1], frame)}):
            return torch.cat([self.frames[0].T[:2], x])


def test_a_known_value_is_replaced_where_it_occurs() -> None:
    x, frame = torch.tensor([[7.0, 8.0]]), torch.tensor([5.0, 6.0, -5.0, -6.0, 9.0])
    expected = torch.tensor([[5.0, 6.0], [-5.0, -6.0], [7.0, 8.0]])
    torch.testing.assert_close(Joining()(x, frame), expected)
    program = torch.export.export(Joining(), (torch.zeros(1, 2), torch.zeros(5)), strict=False)
    torch.testing.assert_close(program.module()(x, frame), expected)


def test_a_value_that_lacks_an_element_is_not_replaced() -> None:
    known = torch.tensor([1.0, 2.0, 3.0, 4.0])
    with TraceOfValues({"frame": (known, -known)}) as trace:
        own = torch.tensor([1.0, 2.0, 3.0, 5.0]) + 0
    assert own.tolist() == [1, 2, 3, 5] and not trace.used


def test_equal_elements_are_replaced_as_one() -> None:
    """As a first frame that Kandinsky 5 has in x and, once more, in further channels."""
    frame, other = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([5.0, 6.0, 7.0, 8.0])
    with TraceOfValues({"frame": (torch.cat([frame, frame]), torch.cat([other, other]))}):
        own = torch.cat([frame, torch.zeros(1), frame]) + 0
    assert own.tolist() == [5, 6, 7, 8, 0, 5, 6, 7, 8]


def test_a_mask_is_not_replaced() -> None:
    with TraceOfValues({"mask": (torch.ones(8), torch.zeros(8))}):
        assert (torch.ones(3) + 0).tolist() == [1, 1, 1]


def test_the_type_of_a_value_is_no_use_of_it() -> None:
    known = torch.tensor([1.0, 2.0, 3.0, 4.0])
    with TraceOfValues({"text": (known, -known)}) as trace:
        assert known.dtype == torch.float32
    assert not trace.used
