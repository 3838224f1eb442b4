"""Circular padding as slices and concatenations, since OpenVINO does not support Pad with the mode "wrap"."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

CIRCULAR = "circular"
PAD = torch.ops.aten.pad.default


def is_circular(node: torch.fx.Node) -> bool:
    """Return True if a node pads circularly."""
    return node.target == PAD and CIRCULAR in (*node.args[2:3], node.kwargs.get("mode"))


def pad_circularly(x: Tensor, pad: Sequence[Any]) -> Tensor:
    """Return `x` with its last axes continued at each end by elements from the other end. Negative lengths crop first,
    as in torch."""
    for place in range(len(pad) // 2):
        axis, before, after = x.dim() - 1 - place, pad[2 * place], pad[2 * place + 1]
        if before < 0 or after < 0:
            x = x.narrow(axis, max(-before, 0), x.shape[axis] - max(-before, 0) - max(-after, 0))
        ends = [x.narrow(axis, x.shape[axis] - before, before)] if before > 0 else []
        starts = [x.narrow(axis, 0, after)] if after > 0 else []
        if ends or starts:
            x = torch.cat([*ends, x, *starts], axis)
    return x
