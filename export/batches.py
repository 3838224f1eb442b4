"""The batch sizes for which the upsampling of diffusers takes the same branch as in a trace.

From 64 rows on, the upsampling makes its input contiguous, which changes no values. The traced graph therefore serves
any batch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ROWS = 64
BATCH_LIMIT = ROWS - 1
TRACE_BATCH = 3  # torch.export would treat 1 as a constant
UPSAMPLING = ("diffusers.models.resnet", "diffusers.models.upsampling")


def batch_range(network: "torch.nn.Module", x_shape: Sequence[int]) -> tuple[int | None, int | None]:
    """Return the smallest and the largest batch size for which the code path that was traced is valid. None means no
    limit.

    A video network merges the frames of x [channels, frames, height, width] into the batch, so each sample has `frames`
    rows.
    """
    if not any(type(layer).__module__ in UPSAMPLING for layer in network.modules()):
        return None, None
    frames = x_shape[1] if len(x_shape) == 4 else 1
    limit = BATCH_LIMIT // frames
    return (None, limit) if limit >= TRACE_BATCH else (TRACE_BATCH, BATCH_LIMIT)
