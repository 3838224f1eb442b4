"""Arrays that a fit would make again, bit for bit: samples of a plan that was rolled out, and first evaluations.

The first x of a rollout is its noise, so that the first evaluation follows from the seeds and from the first told time
alone. A fit of rows leaves that time as it is.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from threading import Lock

import msgspec
import numpy as np

from fewstep.fitting.blocks import Block, digest
from fewstep.plans.file import encode
from fewstep.plans.plan import Plan, Step
from fewstep.runtime.execute import Array, StepNetwork

MOST = 2**26  # bytes of all arrays


@dataclass
class Kept:
    """The arrays of each key; those that were not asked for the longest give way beyond `most` bytes."""

    most: int = MOST
    _known: OrderedDict[bytes, tuple[Array, ...]] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _lock: Lock = field(default_factory=Lock)  # items of a job may come on several threads

    def get(self, key: bytes) -> tuple[Array, ...] | None:
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
            return found

    def put(self, key: bytes, arrays: Sequence[Array]) -> None:
        size = sum(each.nbytes for each in arrays)
        with self._lock:
            if key in self._known or size > self.most:
                return
            self._known[key] = tuple(arrays)
            self._bytes += size
            while self._bytes > self.most:
                _, gone = self._known.popitem(last=False)
                self._bytes -= sum(each.nbytes for each in gone)


def rollout_key(plan: Plan, block: Block) -> bytes:
    """Of all that samples follow from, for one body. A plan's name, and the body that it was fitted to, are no part."""
    numbers = encode(msgspec.structs.replace(plan, name="", fitted=None))
    return sha256(numbers + digest(block)).digest()


def with_first_kept(network: StepNetwork, block: Block, kept: Kept) -> StepNetwork:
    """The same network, which answers from `kept` where the first evaluation was asked before."""
    seeds = digest(block)

    def evaluate(index: int, step: Step, u: Array) -> Sequence[Array]:
        if index > 0:
            return network(index, step, u)
        asked = (step.network, step.time, step.to, step.group, step.branches, step.heads)
        key = sha256(repr(asked).encode() + seeds + np.ascontiguousarray(u).tobytes()).digest()
        found = kept.get(key)
        if found is None:
            found = tuple(network(index, step, u))
            kept.put(key, found)
        return found

    return evaluate
