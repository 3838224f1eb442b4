"""Arrays that a fit would sample again, bit for bit: samples of a plan that was rolled out, and first evaluations.

The first x of a rollout is its noise, so that the first evaluation follows from the seeds and from the first time
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
class ArrayMemory:
    """The arrays of each key. Beyond `most` bytes the arrays that were asked for longest ago give way."""

    most: int = MOST
    _arrays: OrderedDict[bytes, tuple[Array, ...]] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _lock: Lock = field(default_factory=Lock)  # items of a job may come on several threads

    def get(self, key: bytes) -> tuple[Array, ...] | None:
        with self._lock:
            arrays = self._arrays.get(key)
            if arrays is not None:
                self._arrays.move_to_end(key)
            return arrays

    def put(self, key: bytes, arrays: Sequence[Array]) -> None:
        size = sum(each.nbytes for each in arrays)
        with self._lock:
            if key in self._arrays or size > self.most:
                return
            self._arrays[key] = tuple(arrays)
            self._bytes += size
            while self._bytes > self.most:
                _, oldest = self._arrays.popitem(last=False)
                self._bytes -= sum(each.nbytes for each in oldest)


def rollout_key(plan: Plan, block: Block) -> bytes:
    """A digest of all that samples follow from, for one body. A plan's name and body are no part of it."""
    numbers = encode(msgspec.structs.replace(plan, name="", fitted=None))
    return sha256(numbers + digest(block)).digest()


def with_first_stored(network: StepNetwork, block: Block, memory: ArrayMemory) -> StepNetwork:
    """The same network, whose first evaluation comes from the memory where it was asked before."""
    seeds = digest(block)

    def evaluate(index: int, step: Step, u: Array) -> Sequence[Array]:
        if index > 0:
            return network(index, step, u)
        facts = (step.network, step.time, step.to, step.group, step.branches, step.heads)
        key = sha256(repr(facts).encode() + seeds + np.ascontiguousarray(u).tobytes()).digest()
        outputs = memory.get(key)
        if outputs is None:
            outputs = tuple(network(index, step, u))
            memory.put(key, outputs)
        return outputs

    return evaluate
