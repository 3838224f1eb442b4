"""How int8 shifts the means of layers: what `bias.py` corrects."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from choices.bias import Corrections
from numpy.typing import NDArray

from fewstep.graph.graph import Array
from fewstep.graph.selection import WeightedOp

ONE = 2.0**40  # fixed point: sums of whole numbers depend on neither order nor batch


@dataclass
class Shifts:
    """Mean of float output minus int8 output, by operation and lambda group, growing with each batch."""

    ops: tuple[WeightedOp, ...]
    groups: int
    sums: dict[tuple[str, int], NDArray[np.int64]] = field(default_factory=dict)
    samples: dict[tuple[str, int], int] = field(default_factory=dict)  # rows: heads or tokens may be merged with them

    def add(self, exact: Mapping[str, Array], approximate: Mapping[str, Array], group: int) -> None:
        """Take one evaluation of both graphs on the same inputs: arrays [B, ...] of every operation's output."""
        for op in self.ops:
            axis = op.channel_axis
            difference = np.moveaxis(exact[op.name].astype(np.float64) - approximate[op.name], axis, 1)
            means = difference.reshape(*difference.shape[:2], -1).mean(axis=2)  # [B, channels]
            whole = np.rint(means * ONE).astype(np.int64).sum(axis=0)
            self.sums[op.name, group] = self.sums.get((op.name, group), np.int64(0)) + whole
            self.samples[op.name, group] = self.samples.get((op.name, group), 0) + len(means)

    def corrections(self) -> Corrections:
        return {
            op.name: np.stack([self.sums[op.name, g] / (ONE * self.samples[op.name, g]) for g in range(self.groups)])
            for op in self.ops
        }
