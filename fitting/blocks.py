"""Blocks of seeds, and rollouts of a plan on them.

A rollout is a function of a sampler, a plan and a block, and of nothing else. Sums over blocks are in float64 and in
the order of the blocks, so that workers that share the blocks find the same numbers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.measure.rollouts.conditions_file import ConditionRecords, digest_records
from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.plans.plan import Plan
from fewstep.runtime.sampling.execute import Array, StepNetwork, finish
from fewstep.runtime.sampling.sampler import Sampler

BLOCK = 8  # seeds


@dataclass(frozen=True)
class Block(SeedBatch):
    """A batch of a fit. `target` [seeds, *x_shape] is the teacher's sample."""

    target: Array | None = None

    @property
    def required_target(self) -> Array:
        """The target, where there is one."""
        assert self.target is not None, "the teacher samples before samples are compared"
        return self.target

    def step_network(self, sampler: Sampler, plan: Plan) -> StepNetwork:
        """The body along a plan; its times and conditions are prepared here, once."""
        return sampler.step_network(plan, len(self.seeds), self.conditions)

    def sample(self, sampler: Sampler, plan: Plan) -> Array:
        """A plan's samples, [seeds, *x_shape]."""
        return finish(plan, self.run(plan, self.step_network(sampler, plan)))


def digest_block(block: Block) -> bytes:
    """A digest of a block's seeds and conditions."""
    return sha256(repr((block.seeds, block.x_shape, digest_records(block.conditions))).encode()).digest()


def make_blocks(sampler: Sampler, seeds: range, records: ConditionRecords | None = None) -> tuple[Block, ...]:
    """The seeds in blocks, in order, with the conditions that belong to them; without targets.

    records: own conditions [N, *shape]; seed i takes record i mod N.
    """
    return tuple(Block.from_manifest(sampler.bundle.manifest, seeds, records).split(BLOCK))


def append_times(plan: Plan, times: Iterable[float]) -> Plan:
    """The steps to call a network at: the steps of `plan`, then the same ones with other times of the network."""
    others = (msgspec.structs.replace(step, time=float(time)) for step, time in zip(plan.steps, times, strict=True))
    return msgspec.structs.replace(plan, steps=(*plan.steps, *others))


def flatten_samples(array: Array) -> NDArray[np.float64]:
    """Samples as rows, [seeds, elements]."""
    return array.reshape(len(array), -1).astype(np.float64)
