"""The number of samples in a baked run: fixed, or read from the first axis of a tensor."""

from dataclasses import dataclass, field

import numpy as np

from fewstep.graph.builder import Builder


@dataclass
class RunBatch:
    """Tensors that depend on the batch, each added to a graph at its first use.

    fixed: the batch, if it is a number. source: a tensor whose first axis is the batch.
    """

    builder: Builder
    fixed: int | None
    source: str
    _made: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> str:
        """Return the name of the int64 tensor [1] with the value B."""
        return self.times(1)

    def times(self, count: int) -> str:
        """Return the name of the int64 tensor [1] with the value count * B."""
        name = "batch" if count == 1 else f"batch_times_{count}"
        if name not in self._made:
            self._made[name] = self._times(count, name)
        return self._made[name]

    def pair(self, count: int) -> str:
        """Return the name of the int64 tensor [2] with the values (count, B)."""
        name = f"shape_{count}"
        if name not in self._made:  # networks with equal counts share it
            first = self.builder.constant(np.array([count], np.int64), f"number_{count}")
            self._made[name] = self.builder.node("Concat", (first, self.size), name, axis=0)
        return self._made[name]

    def places(self, count: int) -> str:
        """Return the name of the int64 tensor [count * B] with the values 0, 1, ..."""
        name = f"places_{count}"
        if name not in self._made:
            zero, one = (self.builder.constant(np.array(number, np.int64), str(number)) for number in (0, 1))
            limit = self.builder.node("Squeeze", (self.times(count),), f"{name}_limit")
            self._made[name] = self.builder.node("Range", (zero, limit, one), name)
        return self._made[name]

    def _times(self, count: int, name: str) -> str:
        if self.fixed is not None:
            return self.builder.constant(np.array([count * self.fixed], np.int64), name)
        if count == 1:
            return self.builder.node("Shape", (self.source,), name, start=0, end=1)
        whole = self.builder.constant(np.array([count], np.int64), f"number_{count}")
        return self.builder.node("Mul", (whole, self.size), name)
