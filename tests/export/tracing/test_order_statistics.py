"""Order statistics and searches are equal to torch's."""

import torch

from tests.export.tracing.operations import assert_equal_to_torch

EDGES = torch.linspace(-1, 1, 5)
X = torch.randn(4, 3, 8, 5, generator=torch.Generator().manual_seed(0))


def test_order_statistics_are_equal_to_torch() -> None:
    statistics = {
        "third": lambda x: x.kthvalue(3)[0],
        "place": lambda x: x.kthvalue(2, dim=2, keepdim=True)[1],
        "odd": lambda x: x.median(-1)[0],
        "even": lambda x: x.median(2, keepdim=True)[0],
        "index": lambda x: x.median(2)[1],
        "all": lambda x: x.median(),
    }
    assert_equal_to_torch(statistics, X, 0.0)


def test_searches_are_equal_to_torch_on_the_edges_too() -> None:
    searches = {
        "left": lambda x: torch.searchsorted(EDGES, x),
        "right": lambda x: torch.searchsorted(EDGES, x, right=True),
        "side": lambda x: torch.searchsorted(EDGES, x, side="right", out_int32=True),
        "sorter": lambda x: torch.searchsorted(EDGES.flip(0), x, sorter=torch.arange(4, -1, -1)),
        "rows": lambda x: torch.searchsorted(x.sort(-1)[0], x.flip(-1)),
        "isin": lambda x: torch.isin(x, EDGES).int(),
    }
    assert_equal_to_torch(searches, torch.cat([X.flatten(1), EDGES.tile(4, 3)], 1), 0.0)
