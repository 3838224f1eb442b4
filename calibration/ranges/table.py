"""The ranges table: measured ranges of each tensor in each lambda group.

It is a safetensors file. Each tensor of the prepared graph has one float64 array [1 + groups, 3] under its own name:
row 0 is pooled over all groups, row 1 + g is group g; the columns are low, high and the symmetric amax. A tensor with
per-channel scales has two more arrays: "factors(name)" [channels], and "by_channel(name)", the ranges after division by
the factors. The rest is one JSON object in the header.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_tensors

from fewstep.plans.errors import UserError

SCHEMA = 2
LEVELS = 255  # steps between the smallest and the largest of 256 integers
HEADER = "fewstep.ranges"  # one key only: safetensors writes several in an arbitrary order, and the file is hashed
RECALIBRATE = "run `fewstep calibrate` again"
factors_of, by_channel_of = "factors({})".format, "by_channel({})".format  # names of the further arrays of a tensor

Array = NDArray[Any]
METHOD: Final = "channels"  # how ranges are chosen; the others are of earlier versions
Method = Literal["channels", "mse", "minmax", "channels-balanced", "channels-minmax", "percentile", "entropy"]


@dataclass(frozen=True)
class Range:
    """The interval of representable values. It always contains zero: low <= 0 <= high, low < high."""

    low: float
    high: float


GroupRange = tuple[Range, float]  # asymmetric range and amax of one group


@dataclass(frozen=True)
class Ranges:
    """Ranges of one tensor: asymmetric (low, high) and symmetric (amax > 0, for [-amax, amax]).

    `per_group[g]` is for lambda in [edge g-1, edge g), from noise (low lambda) to clean. These ranges use one scale for
    all channels; `by_channel` is set if per-channel scales are available.
    """

    pooled: Range
    per_group: tuple[Range, ...]
    pooled_symmetric: float
    per_group_symmetric: tuple[float, ...]
    by_channel: "ChannelRanges | None" = None

    @property
    def each_group(self) -> tuple[GroupRange, ...]:
        return tuple(zip(self.per_group, self.per_group_symmetric, strict=True))


@dataclass(frozen=True)
class ChannelRanges:
    """The divisor of each channel, and the ranges of the quotients."""

    factors: tuple[float, ...]
    ranges: Ranges


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The metadata of a file of activation ranges, stored as a JSON object in the file's header."""

    schema: int
    graph_sha256: str
    plan: str
    groups: tuple[float, ...]
    method: Method
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True)
class RangesTable:
    """Ranges of a prepared graph's tensors, measured along one plan.

    `groups` are the increasing edges of lambda = log(alpha / sigma) between groups: k edges, k + 1 groups.
    `unseen` are tensors of which no values were observed, e.g. of a layer without routed rows: they have no ranges.
    """

    graph_sha256: str
    plan: str
    groups: tuple[float, ...]
    method: Method
    tensors: Mapping[str, Ranges]
    unseen: tuple[str, ...] = ()

    def __getitem__(self, tensor: str) -> Ranges:
        """Return the ranges of a tensor of the prepared graph. Raises UserError if it was not measured."""
        try:
            return self.tensors[tensor]
        except KeyError:
            raise UserError(f"the ranges table has no tensor {tensor!r}", RECALIBRATE) from None

    def encode(self) -> bytes:
        """Encode the table as the content of a safetensors file. Equal tables give identical bytes."""
        header = Header(SCHEMA, self.graph_sha256, self.plan, self.groups, self.method, self.unseen)
        arrays = {name: _to_array(ranges) for name, ranges in self.tensors.items()}
        for name, ranges in self.tensors.items():
            if ranges.by_channel is not None:
                arrays[factors_of(name)] = np.array(ranges.by_channel.factors, dtype="<f8")
                arrays[by_channel_of(name)] = _to_array(ranges.by_channel.ranges)
        return save_tensors(arrays, metadata={HEADER: msgspec.json.encode(header).decode()})


def _to_array(ranges: Ranges) -> NDArray[np.float64]:
    ends = (ranges.pooled, *ranges.per_group)
    amax = (ranges.pooled_symmetric, *ranges.per_group_symmetric)
    return np.array([(r.low, r.high, a) for r, a in zip(ends, amax, strict=True)], dtype="<f8")
