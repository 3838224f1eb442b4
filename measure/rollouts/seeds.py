"""Seeds: their ranges by purpose, and the noise and conditions that follow from a seed.

Ranges of different purposes are disjoint. Seeds for evaluation and for choices are not used for trajectories, and their
integer conditions cycle through the values. Calibration draws the values of all conditions.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.pictures import Uniform, is_mask, is_picture, picture_axes, random_mask, random_picture
from fewstep.measure.rollouts.record_sizes import select_records, sizes_of_conditions, split_seeds_by_size
from fewstep.plans import noise
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import PERTURBED
from fewstep.plans.plan import Plan
from fewstep.runtime.bundle.conditions import default_value, is_null_by_default, random_range
from fewstep.runtime.bundle.manifest import Condition, Description, Manifest
from fewstep.runtime.kinds.sizes import apply_sizes
from fewstep.runtime.sampling.execute import Array, StepNetwork, StepState, execute
from fewstep.runtime.sampling.finite_checks import finite_states
from fewstep.runtime.sampling.request import check_given
from fewstep.runtime.sampling.sampler import Sampler
from fewstep.runtime.sampling.slots import CarryingNetwork

HELD_OUT_SEEDS = range(100_000)  # for evaluation
PAIRED = HELD_OUT_SEEDS[: len(HELD_OUT_SEEDS) // 2]  # for samples that are compared with float32, seed by seed
APART = HELD_OUT_SEEDS[len(HELD_OUT_SEEDS) // 2 :]  # for float32 samples that others are compared with as a set
SELECTION_SEEDS = range(500_000, 600_000)  # for everything that calibration judges and chooses
SEARCH_SEEDS = SELECTION_SEEDS[:16]  # for searching a map; biased in favour of the best of many choices
JUDGE_SEEDS = SELECTION_SEEDS[16:80]  # for maps that may be deployed; a wanted quality must hold here
BODY_SEEDS = SELECTION_SEEDS[80:88]  # for judging a body, at most as many as trajectories
OPERATION_SEEDS = SELECTION_SEEDS[88:90]  # for the error of each operation, at most as many as trajectories
VERDICT_SEEDS = SELECTION_SEEDS[92:148]  # for judging the body that is written, after BODY_SEEDS
OTHER_SEEDS = SELECTION_SEEDS[90:92]  # for the effect of the seed on float32's samples
FIT_SEEDS = range(600_000, 650_000)  # for fitting numbers
CHOICE_SEEDS = range(650_000, 700_000)  # for the choices of a fit
FIRST_SEED = 1_000_000  # default first seed of calibration

Same = TypeVar("Same", bound="SeedBatch")


@dataclass(frozen=True)
class SeedBatch:
    """The inputs of samples of one size: their seeds, their shape, and a value of each condition for each sample.
    `sizes` are the free sizes of x, or empty for those of the denoiser. `own` has the conditions of those bodies, by
    name, that encode prompts by a text encoder of their own."""

    seeds: Sequence[int]
    x_shape: tuple[int, ...]
    conditions: ConditionRecords
    sizes: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    own: Mapping[str, ConditionRecords] = field(default_factory=dict, kw_only=True)

    @classmethod
    def from_manifest(
        cls: type[Same], manifest: Manifest, seeds: Sequence[int], records: ConditionRecords | None = None
    ) -> Same:
        """Return a batch for evaluation or a choice, with `held_out_conditions`. They give it its size, and must have
        one size (`split_by_size`)."""
        conditions = held_out_conditions(manifest, seeds, records)
        sizes = sizes_of_conditions(manifest, conditions)
        x_shape = apply_sizes(manifest, sizes).x_shape if sizes else manifest.x_shape
        return cls(seeds, x_shape, conditions, sizes={} if x_shape == manifest.x_shape else sizes)

    @classmethod
    def split_by_size(
        cls: type[Same], manifest: Manifest, seeds: Sequence[int], records: ConditionRecords | None, at_most: int
    ) -> Iterator[Same]:
        """Yield batches of at most `at_most` successive seeds, whose records have one size."""
        for part in split_seeds_by_size(seeds, records, at_most):
            yield cls.from_manifest(manifest, part, records)

    def at_size(self, sampler: Sampler) -> Sampler:
        """Return a sampler at the size of this batch."""
        return sampler.with_options(adapters=None, **self.sizes) if self.sizes else sampler

    def select(self: Same, place: slice) -> Same:
        """Return the samples of a slice."""

        def rows(conditions: ConditionRecords) -> ConditionRecords:
            return {name: values[place] for name, values in conditions.items()}

        own = {body: rows(conditions) for body, conditions in self.own.items()}
        return replace(self, seeds=self.seeds[place], conditions=rows(self.conditions), own=own)

    def of_body(self: Same, name: str) -> Same:
        """Return the batch with the conditions that a body runs with."""
        return replace(self, conditions=self.own[name]) if name in self.own else self

    def split(self: Same, size: int) -> Iterator[Same]:
        """Yield all samples, `size` at a time."""
        return (self.select(slice(start, start + size)) for start in range(0, len(self.seeds), size))

    def first(self: Same, count: int) -> Same:
        """Return the first `count` samples."""
        return self.select(slice(count))

    def draw_noise(self, number: int) -> Array:
        """Return the standard normal noise [seeds, *x_shape] that a plan reads as draw `number`."""
        return noise.normal_batch(self.seeds, number, self.x_shape)

    def given_tensors(self, plan: Plan) -> dict[str, NDArray[np.float32]]:
        """Return the given tensors from which a plan starts, such as a degraded sample. Each of them is a condition."""
        return check_given(plan.given, None, self.conditions, self.x_shape, len(self.seeds))

    def run(self, plan: Plan, network: StepNetwork | CarryingNetwork) -> Iterator[StepState]:
        """Yield every state of a run."""
        return execute(plan, network, self.draw_noise, given=self.given_tensors(plan))

    def run_finite(self, plan: Plan, network: StepNetwork | CarryingNetwork) -> Iterator[StepState]:
        """Yield the states of `run`. Raises UserError naming the step at which one is not finite."""
        return finite_states(self.run(plan, network), plan)


def held_out_conditions(
    takes: Description, seeds: Sequence[int], records: ConditionRecords | None = None
) -> dict[str, NDArray[Any]]:
    """Return each condition [seeds, *shape]: integers cycle through their values, others are drawn by the seed.

    User-supplied `records` [N, *shape] replace them; seed i takes record i mod N.
    """
    if records is not None:
        count = min(map(len, records.values()), default=1)
        return select_records(records, np.asarray(seeds) % count)
    axes = picture_axes(takes)
    return {
        condition.name: np.stack([draw_condition(condition, number, seed, axes, is_held_out=True) for seed in seeds])
        for number, condition in enumerate(takes.conditions)
    }


def are_drawn(manifest: Manifest, batch: SeedBatch) -> bool:
    """Return whether the conditions of a batch are those that its seeds draw, and not user-supplied ones. A condition
    without a range, such as an encoded prompt, is never drawn."""
    if any(random_range(condition) is None and not _keeps_default(condition) for condition in manifest.conditions):
        return False
    drawn = held_out_conditions(manifest, batch.seeds)
    return all(np.array_equal(drawn[name], values) for name, values in batch.conditions.items())


def random_conditions(conditions: Sequence[Condition]) -> tuple[str, ...]:
    """Return the names of the conditions for which random values are not realistic: those with several elements, which
    `draw_condition` draws independently. A single random number in its range is as good as a given one."""
    return tuple(
        condition.name for condition in conditions if math.prod(condition.shape) > 1 and not _keeps_default(condition)
    )


def kept_defaults(conditions: Sequence[Condition], records: ConditionRecords | None) -> tuple[str, ...]:
    """Return the names of the conditions that have their default in all samples although they have other values too.

    `records` are user-supplied; None for values drawn by the seed.
    """
    with_default = [
        condition for condition in conditions if condition.default is not None and _has_other_values(condition)
    ]
    if records is None:
        return tuple(condition.name for condition in with_default if _keeps_default(condition))
    return tuple(
        condition.name for condition in with_default if (records[condition.name] == default_value(condition)).all()
    )


def fixed_conditions(conditions: Sequence[Condition], records: ConditionRecords | None) -> tuple[str, ...]:
    """Return the names of the conditions that have one value in all samples, their default or that of all `records`,
    although they have other values too."""
    if records is None:
        return kept_defaults(conditions, None)
    varying = [
        condition
        for condition in conditions
        if _has_other_values(condition) and records[condition.name].dtype != object
    ]
    return tuple(
        condition.name for condition in varying if (records[condition.name] == records[condition.name][:1]).all()
    )


def _has_other_values(condition: Condition) -> bool:
    """Return False if the limits of the condition allow one value only, and for `PERTURBED`, whose branch has its other
    value."""
    return condition.name != PERTURBED and (condition.low is None or condition.low != condition.high)


def describe_conditions(takes: Description, seed: int, records: ConditionRecords | None = None) -> str:
    """Describe the scalar conditions of one held-out seed in a few words, as a label of its sample."""
    texts = []
    for number, condition in enumerate(takes.conditions):
        if condition.shape:
            continue
        if records is None:
            value = draw_condition(condition, number, seed, is_held_out=True)
        else:
            value = records[condition.name][seed % len(records[condition.name])]
        has_label = condition.labels and 0 <= int(value) < len(condition.labels)
        texts.append(condition.labels[int(value)] if has_label else f"{condition.name} {value:g}")
    return ", ".join(texts) or f"seed {seed}"


def _keeps_default(condition: Condition) -> bool:
    """Return True if all drawn values are the default. A null value is not kept: all branches of guidance would be
    equal."""
    if condition.default is None or condition.typical is not None:
        return False
    return random_range(condition) is None or not is_null_by_default(condition)


def draw_conditions(takes: Description, seeds: Sequence[int]) -> dict[str, NDArray[Any]]:
    """Draw each condition [seeds, *shape] by the seed. Raises UserError if one cannot be drawn."""
    axes = picture_axes(takes)
    return {
        condition.name: np.stack([draw_condition(condition, number, seed, axes) for seed in seeds])
        for number, condition in enumerate(takes.conditions)
    }


def draw_condition(
    condition: Condition, number: int, seed: int, axes: Sequence[int] = (), is_held_out: bool = False
) -> NDArray[Any]:
    """Return a random value of condition number `number`, determined by the seed. A condition with a default and
    without a typical range keeps the default, unless it is the null value.

    If samples are images with the height and width `axes`, a mask consists of 0 and 1, and an image has the statistics
    of natural images (`pictures`). Any other value is uniform in its range; for integers this includes both ends. With
    `is_held_out`, successive seeds instead give the successive values of an integer that keeps no default.
    """
    if _keeps_default(condition):
        return default_value(condition)
    drawn = random_range(condition)
    if drawn is None:
        raise UserError(
            f"condition {condition.name!r} has no range to draw values from",
            "give some (--conditions FILE or FOLDER), or `typical` in the spec and export again",
        )
    is_whole = condition.shape == () and condition.dtype in ("int64", "int32", "uint8", "int8")
    if is_held_out and is_whole and (condition.default is None or is_null_by_default(condition)):
        first, last = map(int, drawn)
        return np.asarray(first + seed % (last - first + 1), condition.dtype)
    (low, high), numbers = drawn, _numbers(seed, number)
    if is_mask(condition, axes):
        values = random_mask(condition.shape, numbers)
    elif is_picture(condition, axes):
        values = low + random_picture(condition.shape, numbers) * (high - low)
    else:
        drawn_at = numbers(math.prod(condition.shape)).reshape(condition.shape)
        if np.dtype(condition.dtype).kind in "iub":
            values = np.floor(low + drawn_at * (high - low + 1))
        else:
            values = low + drawn_at * (high - low)
    return np.asarray(values, condition.dtype)


def _numbers(seed: int, number: int) -> Uniform:
    """Return a function that returns the random numbers of a condition: those of block 0 at the first call, and so
    on."""
    blocks = itertools.count()
    return lambda count: uniform(seed, number, noise.CONDITIONS, count, next(blocks))


def uniform(seed: int, number: int, stream: int, count: int, block: int = 0) -> NDArray[np.float64]:
    """Return `count` uniform random numbers in (0, 1), determined by the seed, the number of the drawing, the stream (a
    constant of `plans.noise`) and the block."""
    counter = np.zeros((4, count), np.uint64)
    counter[0], counter[1], counter[2], counter[3] = np.arange(count), block, number, stream
    drawn: NDArray[np.float64] = (noise.philox(counter, (seed & 0xFFFFFFFF, seed >> 32))[0] + 0.5) * 2.0**-32
    return drawn
