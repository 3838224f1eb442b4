"""`padding=(1,)` of a conv2d, which torch spreads over all axes, and ONNX does not."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fewstep.export.tracing.capture import capture
from fewstep.export.tracing.short_lists import expand_short_lists
from fewstep.graph.session import run


class Short(nn.Module):
    """Lists of one number wherever torch takes them: conv2d, its transpose, poolings, conv3d."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.deep = nn.Parameter(torch.randn(2, 2, 3, 3)), nn.Parameter(torch.randn(2, 2, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = functional.conv2d(x, self.flat, padding=(1,), stride=[2], dilation=(1,))
        h = functional.conv_transpose2d(h, self.flat, stride=(2,), padding=(1,), output_padding=(1,))
        h = functional.avg_pool2d(functional.max_pool2d(h, (3,), (1,), (1,)), (2,), (2,))
        return functional.conv3d(h[:, :, None], self.deep, padding=(1,))


def test_lists_of_one_number_compute_what_they_do_in_torch() -> None:
    torch.manual_seed(0)
    module, x = Short().requires_grad_(False), torch.randn(5, 2, 8, 8)
    graph, _ = capture(module, (x[:3],), ({0: torch.export.Dim("batch")},), ["x"], ["y"])
    wanted = module(x).numpy()
    assert wanted.shape == (5, 2, 1, 4, 4)
    np.testing.assert_allclose(run(graph, {"x": x.numpy()})["y"], wanted, atol=1e-4)


def test_operations_without_such_lists_are_left_as_they_are() -> None:
    """torch refuses to assign the arguments of some nodes, such as those that write into a view."""
    program = torch.export.export(nn.Conv2d(2, 2, 3, padding=1), (torch.ones(1, 2, 8, 8),))
    nodes = list(program.graph.nodes)
    before = [(node.args, node.kwargs) for node in nodes]
    expand_short_lists(program)
    assert all(node.args is args and node.kwargs is kwargs for node, (args, kwargs) in zip(nodes, before, strict=True))
