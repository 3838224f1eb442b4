"""Sample a stream of frames: each frame is a lane, and lanes at different steps share the network's calls.

    frames = stream(sampler, plan="lcm:4", condition={"class": [3]}, strength=0.6)
    for frame in camera:
        for out in frames.push(frame):  # none, one or more, in their order
            show(out.sample)
    for out in frames.flush():
        show(out.sample)

With N steps, the result of a frame is returned N - 1 frames later, and each call of the network evaluates N frames
(stream batch: StreamDiffusion, Kodaira et al. 2023, arXiv 2312.12491). Lanes are independent, so each frame's sample is
the same as from `Sampler.sample`. A stream must be used by one thread only.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep.literature.streams.similarity_filter import SimilarityFilter
from fewstep.literature.streams.stats import Counter, Stats
from fewstep.plans.any_plan import PlanLike, check_compiled
from fewstep.plans.argument_checks import check_integer
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance
from fewstep.plans.plan import IMAGE
from fewstep.plans.shaping import Shaping
from fewstep.runtime.arrays import as_numbers
from fewstep.runtime.bundle import conditions
from fewstep.runtime.sampling.finite_checks import finite_sample
from fewstep.runtime.sampling.mixed_plans import Cohort, step
from fewstep.runtime.sampling.request import check_branches, check_given, check_seeds, check_settings
from fewstep.runtime.sampling.sampler import Sampler
from fewstep.runtime.sampling.slots import refuse_banks
from fewstep.runtime.sampling.step_call import Feeds

if TYPE_CHECKING:
    from typing_extensions import Unpack  # part of the standard library since Python 3.11

Float32 = NDArray[np.float32]
Frame = ArrayLike | Mapping[str, ArrayLike] | None
Noise = Literal["fixed", "fresh"]
Mode = Literal["batch", "sequence"]

PLAN = "lcm:4"


@dataclass(frozen=True)
class StreamedFrame:
    """The result of a stream for one frame.

    index: index of the frame, counted from 0 unless its source counts.
    sample: float32 [*x_shape], in model range.
    fresh: False if the frame was skipped; the sample is then that of the last processed frame.
    latency_s: seconds from push to return.
    seed: seed of its noise.
    """

    index: int
    sample: Float32
    fresh: bool
    latency_s: float
    seed: int


class FrameOptions(TypedDict, total=False):
    """The options of a stream for frames that are pushed. The arguments are as in `Sampler.sample` for one sample."""

    plan: PlanLike
    condition: conditions.ConditionValues | None
    guidance: float | Guidance | None
    strength: float | None
    shaping: Shaping | None
    branches: conditions.Overrides | None


@dataclass
class FrameLane:
    """A frame in progress. A skipped frame has no cohort, and waits for earlier frames."""

    index: int
    seed: int
    entered: float
    cohort: Cohort | None


@dataclass(frozen=True)
class _Passed:
    """The parts of a frame that the filter compares: its given tensors in one row, and its checked conditions."""

    given: Float32
    conditions: Mapping[str, NDArray[Any]]

    def has_conditions_of(self, other: "_Passed") -> bool:
        same = self.conditions.keys() == other.conditions.keys()
        return same and all(np.array_equal(value, other.conditions[name]) for name, value in self.conditions.items())


def stream(
    sampler: Sampler,
    *,
    noise: Noise = "fixed",
    similar: SimilarityFilter | None = None,
    mode: Mode = "sequence",
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    **options: "Unpack[FrameOptions]",
) -> "Stream":
    """Create a stream of frames for a sampler.

    Args:
        noise: "fixed" gives all frames the noise of `seed`, so that a static scene does not flicker; "fresh" gives the
            frame with index i the noise of seed + i.
        similar: a filter that skips frames which resemble the last processed one and have the same conditions. A
            skipped frame still advances the others.
        mode: "sequence" samples each frame completely before the next one. "batch" combines the calls of all lanes, and
            returns results later. An int8 body on a CPU has one range group per call, so batches combine few lanes
            unless it was calibrated with pooled groups.
        clock: the time in seconds, for latencies.
        options: `FrameOptions`, which `Stream.set` changes. Conditions that are not given here must come with each
            frame.
    """
    if noise not in get_args(Noise) or mode not in get_args(Mode):
        raise UserError(
            f"noise {noise!r} or mode {mode!r} is unknown", "give noise fixed or fresh, and mode batch or sequence"
        )
    if not isinstance(similar, SimilarityFilter | None):
        raise UserError(
            f"similar {similar!r} is not a filter", "give fewstep.literature.streams.SimilarityFilter(threshold=0.98)"
        )
    (seed,) = check_seeds([seed])
    return Stream(sampler, noise, similar, mode, seed, clock, options)


class Stream:
    """A stream of frames, created by `stream`. It returns one sample per frame, in the same order."""

    def __init__(
        self,
        sampler: Sampler,
        noise: Noise,
        similar: SimilarityFilter | None,
        mode: Mode,
        seed: int,
        clock: Callable[[], float],
        options: FrameOptions,
    ) -> None:
        self._sampler, self._noise, self._similar, self._batches = sampler, noise, similar, mode == "batch"
        self._seed, self._clock = seed, clock
        self._takes = sampler.bundle.manifest
        self._draws = cache(sampler.draws([seed]))
        self._lanes: deque[FrameLane] = deque()
        self.next_index = 0  # index of the next frame
        self._latest: Float32 | None = None  # the last fresh sample that was returned
        self._counter = Counter()
        self._options: FrameOptions = {}
        self.set(**options)

    def __call__(self, frames: Iterable[Frame]) -> Iterator[StreamedFrame]:
        """Yield the results for all frames of a source that waits, such as a file."""
        for frame in frames:
            yield from self.push(frame)
        yield from self.flush()

    def push(self, frame: Frame = None, index: int | None = None) -> list[StreamedFrame]:
        """Add a frame, run one step of all lanes, and return the finished frames.

        Args:
            frame: the given image [*x_shape] in model range, or arrays by the names of given tensors and conditions;
                None for plans without given tensors.
            index: index of the frame, if its source counts and leaves frames out. Indices must increase.
        """
        index = self.next_index if index is None else check_integer("the next frame is not", index, self.next_index)
        arrays = arrays_of(frame)
        own = {
            condition.name: arrays.pop(condition.name)[None]
            for condition in self._takes.conditions
            if condition.name in arrays
        }
        condition = {**(self._options.get("condition") or {}), **own}
        given = check_given(self._plan.given, arrays, condition, self._takes.x_shape, 1)
        fed = self._feeds
        if fed is None or own:
            fed = self._sampler.step_call(self._plan, 1, condition, self._options.get("branches")).feeds
        now = self._clock()
        self._counter.count_push(now)
        self._counter.dropped += index - self.next_index
        self.next_index = index + 1
        seed = self._seed if self._noise == "fixed" else (self._seed + index) % 2**64
        cohort = None
        if not self._skips(given, own, index):
            draws = self._draws if self._noise == "fixed" else self._sampler.draws([seed])
            kept = {name: np.array(tensor) for name, tensor in given.items()}  # the caller may reuse its buffers
            cohort = Cohort(self._plan, [0], draws, kept, fed)
        self._lanes.append(FrameLane(index, seed, now, cohort))
        self._pump(to_the_end=not self._batches)
        return self._ready()

    def flush(self) -> list[StreamedFrame]:
        """Finish the frames in progress, and return them."""
        self._pump(to_the_end=True)
        return self._ready()

    def set(self, *, now: bool = False, **changes: "Unpack[FrameOptions]") -> None:
        """Change options for frames that are pushed from now on. The next frame is processed, however similar it is.

        `now` drops the frames in progress. Otherwise they keep the plan and conditions that they started with.
        """
        check_settings(changes, FrameOptions, "stream")
        options: FrameOptions = {**self._options, **changes}
        branches, condition = options.get("branches"), conditions.check_condition_mapping(options.get("condition"))
        names = [condition.name for condition in self._takes.conditions]
        if unknown := [name for name in condition if name not in names]:
            raise UserError(f"unknown condition {unknown[0]!r}", f"it takes {', '.join(map(repr, names)) or 'none'}")
        plan = self._sampler.compile(
            options.get("plan", PLAN),
            options.get("guidance"),
            shaping=options.get("shaping"),
            strength=options.get("strength"),
            branches=branches,
        )
        refuse_banks(check_compiled(plan), self._sampler.bundle.path)
        check_branches(branches, [plan], options.get("guidance"))
        complete = all(name in condition for name in names)
        fed: Feeds | None = cache(self._sampler.step_call(plan, 1, condition, branches).feeds) if complete else None
        self._options, self._plan, self._feeds = options, plan, fed
        self._passed: _Passed | None = None  # the last frame that was processed
        self._skipped = 0  # number of frames skipped in a row
        if now:
            self._drop()

    def stats(self) -> Stats:
        """Return counts and latencies so far."""
        return self._counter.stats(len(self._lanes))

    def _skips(self, given: Mapping[str, Float32], values: Mapping[str, NDArray[Any]], index: int) -> bool:
        """Return whether the filter skips a frame, and store the frame if it is processed. Given tensors are compared
        by similarity. A frame's own conditions must be equal, since two similar labels are still two classes."""
        if self._similar is None:
            return False
        exact = [
            condition
            for condition in self._takes.conditions
            if condition.name in values and condition.name not in given
        ]
        now = _Passed(
            np.concatenate([np.ravel(array) for array in given.values()] or [np.zeros(0, np.float32)]),
            conditions.check(exact, {condition.name: values[condition.name] for condition in exact}, 1),
        )
        last = self._passed
        alike = last is not None and self._skipped < self._similar.most and now.has_conditions_of(last)
        if alike and last is not None and self._similar.skips(now.given, last.given, self._seed, index):
            self._skipped += 1
            return True
        self._passed, self._skipped = now, 0
        return False

    def _pump(self, *, to_the_end: bool) -> None:
        """Run the next step of all frames in progress, or with `to_the_end` all their steps."""
        while going := [lane.cohort for lane in self._lanes if lane.cohort is not None and not lane.cohort.is_done]:
            try:
                self._counter.calls += step(going, self._sampler.denoiser, self._sampler.denoiser.common_inputs)
            except Exception:
                self._drop()  # only some of the lanes have advanced
                raise
            if not to_the_end:
                return

    def _drop(self) -> None:
        self._counter.dropped += len(self._lanes)
        self._lanes.clear()
        self._passed = None

    def _ready(self) -> list[StreamedFrame]:
        """Return the finished frames at the head of the stream. A frame waits for slower ones before it."""
        out = []
        while self._lanes and ((cohort := self._lanes[0].cohort) is None or cohort.is_done):
            lane = self._lanes.popleft()
            if cohort is not None:
                assert cohort.last is not None
                (self._latest,) = finite_sample(cohort.plan, [cohort.last])
            assert self._latest is not None  # a frame is only skipped after a processed one
            now = self._clock()
            self._counter.count_output(now, now - lane.entered, cohort is not None)
            sample = self._latest.copy()  # the caller may modify it
            out.append(StreamedFrame(lane.index, sample, cohort is not None, now - lane.entered, lane.seed))
        return out


def arrays_of(frame: Frame) -> dict[str, NDArray[Any]]:
    """Return the arrays of a frame by name. A label of a condition is not converted."""
    named = {} if frame is None else dict(frame) if isinstance(frame, Mapping) else {IMAGE: frame}
    return {
        name: np.asarray(value)
        if isinstance(value, str)
        else as_numbers(value, f"{name!r} of a frame", "give an array in model range")
        for name, value in named.items()
    }
