"""Blocks of seeds, and rollouts of a plan on them.

A rollout depends only on a sampler, a plan and a block. Sums over blocks are in float64 and in the order of the blocks,
so that the result does not depend on the number of workers.
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
PART = 0.3  # part of a timestep, or of a thousandth of the range of times if there are no timesteps


@dataclass(frozen=True)
class Block(SeedBatch):
    """A batch of seeds of a fit. `target` [seeds, *x_shape] holds the teacher's samples, or is None before they are
    added."""

    target: Array | None = None

    @property
    def required_target(self) -> Array:
        """The block's target, [seeds, *x_shape]. The block must have one."""
        assert self.target is not None, "the teacher samples before samples are compared"
        return self.target

    def step_network(self, sampler: Sampler, plan: Plan) -> StepNetwork:
        """Return the body's network for a plan. Its times and conditions are prepared once, in this call."""
        return self.at_size(sampler).step_network(plan, len(self.seeds), self.conditions)

    def sample(self, sampler: Sampler, plan: Plan) -> Array:
        """Return a plan's samples, [seeds, *x_shape]."""
        return finish(plan, self.run(plan, self.step_network(sampler, plan)))


def digest_block(block: Block) -> bytes:
    """Return a digest of a block's seeds and conditions."""
    return sha256(repr((block.seeds, block.x_shape, digest_records(block.conditions))).encode()).digest()


def make_blocks(sampler: Sampler, seeds: range, records: ConditionRecords | None = None) -> tuple[Block, ...]:
    """Return the seeds in blocks, in order, with their conditions and without targets.

    records: user-supplied conditions [N, *shape]; seed i uses record i mod N.
    """
    return tuple(Block.from_manifest(sampler.bundle.manifest, seeds, records).split(BLOCK))


def append_times(plan: Plan, times: Iterable[float]) -> Plan:
    """Return a plan with the steps of `plan`, followed by the same steps with the network times `times` [N].

    It cannot sample: it only prepares a network for calls at both sets of times.
    """
    others = (msgspec.structs.replace(step, time=float(time)) for step, time in zip(plan.steps, times, strict=True))
    return msgspec.structs.replace(plan, steps=(*plan.steps, *others))


def flatten_samples(array: Array) -> NDArray[np.float64]:
    """Return samples as float64 vectors, [seeds, elements]."""
    return array.reshape(len(array), -1).astype(np.float64)


def is_continuous(sampler: Sampler, plan: Plan, block: Block) -> bool:
    """True if a change of the time by a fraction of a timestep changes the network's output. Networks that round the
    time, or look it up in a table, return bitwise identical outputs."""
    timesteps = sampler.bundle.manifest.schedule.timesteps
    times = np.array([step.time for step in plan.steps])
    span = float(np.ptp(times)) or 1.0
    part = PART * (1.0 if times.max() > 1 and timesteps else span / 1000)
    middle = len(times) // 2
    others = times.copy()
    others[middle] += part if np.floor(times[middle] + part) == np.floor(times[middle]) else -part
    network = block.step_network(sampler, append_times(plan, others))
    step, u = plan.steps[middle], block.draw_noise(0)
    before, after = network(middle, step, u), network(middle + len(times), step, u)
    return not all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
