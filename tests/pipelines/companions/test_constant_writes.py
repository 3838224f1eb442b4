"""Code that writes a traced value into a tensor that existed before the trace."""

import torch
from torch import Tensor, nn

from fewstep.pipelines.companions.constant_writes import WriteIntoCopies


class Writing(nn.Module):
    """Writes x into the first columns of a state, twice, and reads all of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = [torch.arange(6.0).reshape(1, 6)]  # no buffer, as a variable of a call

    def forward(self, x: Tensor) -> Tensor:
        state = self.rows[0].clone() if not torch.compiler.is_exporting() else self.rows[0]
        with WriteIntoCopies():
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
