"""Stacks of tensors are equal to torch's, without a loop over the list."""

import torch

from tests.export.tracing.operations import assert_equal_to_torch


def test_stacks_are_equal_to_torch() -> None:
    stacks = {
        "hstack": lambda x: torch.hstack([x, 2 * x]),
        "vstack": lambda x: torch.vstack([x, 2 * x]),
        "dstack": lambda x: torch.dstack([x, 2 * x]),
        "column_stack": lambda x: torch.column_stack([x[:, 0], x[:, 1]]),
        "of scalars": lambda x: torch.hstack([x.mean(), x.sum()]),
        "of rows": lambda x: torch.dstack([x[0], x[1]]),
        "at least": lambda x: torch.atleast_3d([x, x[0]])[1],
    }
    graph = assert_equal_to_torch(stacks, torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), 1e-6)
    assert "SequenceMap" not in graph.ops()
