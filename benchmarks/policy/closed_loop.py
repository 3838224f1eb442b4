"""The requests of the deployed plan in rollouts: observations for calibration, and the error of int8 on them.

They differ from observations of demonstrations: a policy that samples in few steps visits other states.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.policy.rollouts import episodes_of, run
from benchmarks.policy.verdicts import Contender
from benchmarks.policy.worlds import World
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.plans.plan import Plan
from fewstep.robots.control import SequenceRequest, VirtualClock, pad_actions, sample_sequences
from fewstep.robots.control.clocks import SequenceJob, VirtualRun
from fewstep.runtime import Sampler, load
from fewstep.runtime.kinds.policies import policy_of

FIRST_SEED = 500_000  # of these episodes; evaluation has those from 0 on
CALIBRATED = "dpmpp_2m:4"  # ranges of four steps serve one and two as well
ROWS = 256  # observations that are calibrated on
DEVIATION = ".deviation"


class Watching(VirtualClock):
    """A virtual clock that stores the requests."""

    def __init__(self, delay: float) -> None:
        super().__init__(delay)
        self.jobs: list[SequenceJob] = []

    def start(self, job: SequenceJob) -> VirtualRun:
        self.jobs.append(job)
        return super().start(job)


def observations_of(bundle: Path) -> Path:
    """Return the file of the observations on which a bundle was calibrated. Bundles of several weights may share a
    folder."""
    return bundle.with_suffix(".observations.npz")


def watch(
    world: World, contender: Contender, sampler: Sampler, per_task: int, first: int = FIRST_SEED
) -> list[SequenceJob]:
    """Return all requests of a contender in a number of episodes of each task, from a seed on."""
    clocks: list[Watching] = []

    def make_clock(delay: float) -> Watching:
        clocks.append(Watching(delay))
        return clocks[-1]

    for _ in run(world, contender, sampler, episodes_of(per_task, world.tasks, first), make_clock):
        pass
    return clocks[0].jobs


def rows(jobs: Sequence[SequenceJob], sampler: Sampler, count: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Conditions [count, ...] by name, of jobs drawn at random: a file for `fewstep calibrate --conditions`."""
    manifest = sampler.bundle.manifest
    policy = policy_of(manifest)
    chosen = np.random.default_rng(seed).permutation(len(jobs))[:count]
    made: dict[str, list[NDArray[np.float32] | NDArray[np.uint8]]] = {
        condition.name: [] for condition in manifest.conditions
    }
    for job in (jobs[place] for place in chosen):
        is_given = job.continuity == "trained" and job.request.former is not None
        for name, value in job.request.window.items():
            made[name].append(value)
        if policy.prefix is not None and policy.delay is not None:
            former = job.request.former if is_given else None
            none = np.zeros(manifest.x_shape, np.float32)
            made[policy.prefix].append(none if former is None else pad_actions(former, len(none)))
            made[policy.delay].append(np.array([job.request.decided if is_given else 0], np.float32))
    return {name: np.stack(values) for name, values in made.items()}


def write_observations(world: World, bundle: Path, watched: Sequence[Contender], per_task: int) -> list[SequenceJob]:
    """Write observations that contenders request sequences from in episodes, and return all requests."""
    with load(bundle) as sampler:
        jobs = [job for contender in watched for job in watch(world, contender, sampler, per_task)]
        np.savez(observations_of(bundle), **rows(jobs, sampler, ROWS))  # type: ignore[arg-type]
    return jobs


def calibrate_on(jobs: Sequence[SequenceJob], bundle: Path, clip: float | None = None) -> None:
    """Calibrate a bundle on its observations, and write how far int8 is from float32 on requests. That file is the last
    that is written."""
    calibrate(CalibrateOptions(bundle, parse_plan_text(CALIBRATED), conditions=observations_of(bundle), clip=clip))
    with load(bundle) as floating, load(bundle, precision="int8") as integer:
        far = deviation(jobs, floating, integer)
    bundle.with_suffix(DEVIATION).write_text(f"{far.rms:.4f} {far.p99:.4f}\n")


@dataclass(frozen=True)
class Deviation:
    """The distance of executed actions from another body's, in units: root mean square, and the 99th
    percentile of the largest of each sequence."""

    rms: float
    p99: float


def deviation(jobs: Sequence[SequenceJob], one: Sampler, other: Sampler, count: int = 256, seed: int = 1) -> Deviation:
    """Return the deviation of two samplers with the same requests."""
    chosen = np.random.default_rng(seed).permutation(len(jobs))[:count]
    executed = policy_of(one.bundle.manifest).actions
    squares, largest = [], []
    for job in (jobs[place] for place in chosen):
        a, b = (_actions(each, job.plan, job.request, job)[:executed] for each in (one, other))
        squares.append(float(np.square(a - b).mean()))
        largest.append(float(np.abs(a - b).max()))
    return Deviation(float(np.sqrt(np.mean(squares))), float(np.quantile(largest, 0.99)))


def _actions(sampler: Sampler, plan: Plan, asked: SequenceRequest, job: SequenceJob) -> NDArray[np.float32]:
    (actions,), _ = sample_sequences(sampler, plan, [asked], job.continuity)
    made: NDArray[np.float32] = actions
    return made
