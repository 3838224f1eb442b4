"""Sample arrays larger than the network's: it runs on overlapping windows, and their outputs are averaged.

    plan = sampler.compile("dpmpp_2m:8")
    x = sample_tiles(sampler, plan, (3, 1024, 1024), Tiles(overlap=64), seeds=[0])

All windows of a step read the same state, so that they agree after every step (MultiDiffusion: Bar-Tal et al. 2023,
arXiv 2302.08113). The state has the whole shape; the network never takes more than `batch` windows at once. There are
several windows along each axis on which the sample is larger than the network's input: height and width of an image, or
the frames of a recording.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial
from math import prod
from typing import Any, NoReturn

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.plans import noise
from fewstep.plans.any_plan import AnyPlan, PlanLike, check_compiled
from fewstep.plans.argument_checks import as_integer, check_integer, refuse_options
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan, Step
from fewstep.runtime.arrays import Float32, as_numbers
from fewstep.runtime.bundle.conditions import ConditionValues, Overrides
from fewstep.runtime.kinds.sizes import ELEMENTS_LIMIT
from fewstep.runtime.sampling.execute import Array, Hold, StepNetwork, StepState, execute
from fewstep.runtime.sampling.feeds import branch_values
from fewstep.runtime.sampling.finite_checks import finite_outputs, finite_sample, finite_states, warn_if_far
from fewstep.runtime.sampling.planned_run import stop_on_cancel
from fewstep.runtime.sampling.request import (
    Cancel,
    GivenTensors,
    check_branches,
    check_given,
    check_hold,
    check_seeds,
    check_tensors,
    refuse_choices,
)
from fewstep.runtime.sampling.sampler import Sampler
from fewstep.runtime.sampling.slots import refuse_banks
from fewstep.runtime.sampling.step_call import StepCall
from fewstep.runtime.windows import Place, blend_weights, window_places


@dataclass(frozen=True)
class Tiles:
    """How windows are placed and how their outputs are blended.

    overlap: elements that neighbours share along each axis.
    blend: the middle elements of the overlap, over which the output changes from one window to its neighbour. Elements
        closer to a window's border have weight 0. None means half of the overlap. If the network's receptive field
        reaches r elements, its outputs equal those of the whole for 2 r <= overlap - blend.
    moves: move the windows at each step, so that seams do not accumulate (Any-Size-Diffusion: Zheng et al. 2023, arXiv
        2308.16582). Offsets depend on the number of remaining steps, so a tail has the windows of the whole run.
    batch: windows of each sample per call.
    """

    overlap: int
    blend: int | None = None
    moves: bool = False
    batch: int = 1

    def __post_init__(self) -> None:
        check_integer("overlap", self.overlap, 0)
        check_integer("batch", self.batch, 1)
        if self.blend is not None:
            check_integer(f"overlap {self.overlap} and blend", self.blend, 0, self.overlap)

    @property
    def margin(self) -> int:
        """The number of elements with weight 0 at a window's inner border."""
        return (self.overlap - (self.overlap // 2 if self.blend is None else self.blend)) // 2


def sample_tiles(
    sampler: Sampler, plan: PlanLike, shape: Sequence[int], tiles: Tiles, seeds: Sequence[int] = (0,), **options: Any
) -> Float32:
    """Return samples, float32 [len(seeds), *shape], larger than those of the sampler, as overlapping tiles. The
    arguments are those of `tiled_steps`."""
    compiled = _compile_plan(sampler, plan, options.get("branches"))
    held = check_hold(options.get("hold"), compiled, _sample_shape(shape), len(check_seeds(seeds)))
    states = tiled_steps(sampler, compiled, shape, tiles, seeds, **{**options, "hold": held})
    return warn_if_far(finite_sample(compiled, states, held), compiled, sampler.bundle.manifest)


def tiled_steps(
    sampler: Sampler,
    plan: PlanLike,
    shape: Sequence[int],
    tiles: Tiles,
    seeds: Sequence[int] = (0,),
    condition: ConditionValues | None = None,
    *,
    branches: Overrides | None = None,
    given: GivenTensors | None = None,
    hold: Hold | None = None,
    cancel: Cancel | None = None,
    **others: NoReturn,
) -> Iterator[StepState]:
    """Yield the state after each step of a run over windows.

    Args:
        plan: as in `Sampler.sample`; a compiled plan contains its guidance.
        shape: the shape of a whole sample [*x_shape], larger than the sampler's along some axes.
        condition: for each condition, one value per sample. A condition that follows x has the same size relative to
            the whole sample as to a window, and is cut like x.
        given: tensors [len(seeds), *shape]. Arrays of `hold` have that shape too.

    Other arguments are as in `Sampler.sample`. Windows have the sampler's size (`Sampler.with_options`).
    """
    refuse_choices(others)
    refuse_options(others)
    shape, numbers, plan = _sample_shape(shape), check_seeds(seeds), _compile_plan(sampler, plan, branches)
    check_branches(branches, [plan], plan.guidance)
    refuse_banks(plan, sampler.bundle.path)
    check_tensors(plan, shape)
    tensors = check_given(plan.given, given, condition, shape, len(numbers))
    held = check_hold(hold, plan, shape, len(numbers))
    network = _Windows(sampler, plan, shape, tiles, len(numbers), condition or {}, branches or {}).step_network()

    def draws(number: int) -> Float32:
        return noise.normal_batch(numbers, number, shape)

    states = execute(plan, network, draws, np.float32, tensors, held)
    return stop_on_cancel(finite_states(states, plan), len(plan.steps), cancel)


def _sample_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of a whole sample as integers."""
    try:
        found = [*map(as_integer, shape)]
    except TypeError:  # no sequence
        found = [None]
    sizes = tuple(size for size in found if size is not None)
    if len(sizes) < len(found):
        raise UserError(f"shape {shape!r} is not a shape", "give whole numbers, such as (3, 1024, 1024)")
    return sizes


def _compile_plan(sampler: Sampler, plan: PlanLike, branches: Overrides | None) -> Plan:
    """Return the plan for this sampler. Its tensors have the whole shape, which `tiled_steps` checks."""
    if not isinstance(plan, AnyPlan):
        return check_compiled(sampler.compile(plan, branches=branches))
    numbers = check_compiled(plan)
    checked = sampler.compile(msgspec.structs.replace(numbers, tensors=()), branches=branches)
    return msgspec.structs.replace(checked, tensors=numbers.tensors)


class _Windows:
    """A denoiser of a whole sample. It calls the network on the sample's windows."""

    def __init__(
        self,
        sampler: Sampler,
        plan: Plan,
        shape: tuple[int, ...],
        tiles: Tiles,
        samples: int,
        condition: ConditionValues,
        branches: Overrides,
    ) -> None:
        self._sampler, self._plan, self._shape, self._tiles = sampler, plan, shape, tiles
        self._samples, self._condition, self._branches = samples, condition, branches
        self._takes = sampler.bundle.manifest
        self._window = window = self._takes.x_shape
        whole_axes = len(shape) == len(window) and all(
            full == part or (full > part and part > tiles.overlap) for full, part in zip(shape, window, strict=True)
        )
        if prod(shape) > ELEMENTS_LIMIT:
            raise UserError(f"samples {list(shape)} have more than {ELEMENTS_LIMIT} elements", "give a smaller shape")
        if not whole_axes:
            raise UserError(
                f"samples {list(shape)} cannot be cut into windows {list(window)} that overlap by {tiles.overlap}",
                "give a shape with a window's axes, each at least as long, and windows larger than the overlap",
            )
        given = [each for values in (condition, *branches.values()) for each in values.items() if each[1] is not None]
        follows = [self._ratios(name, value) for name, value in given]
        first: list[Place] = [tuple(slice(0, size) for size in window)]  # to refuse wrong values before the first step
        branch_values(self._takes.conditions, *self._values(first), samples, sampler.network().nulls)
        self._cut = any(ratios is not None for ratios in follows)
        steps = [ratio.denominator for ratios in follows for ratio in ratios or () if ratio]
        self._multiple = int(np.lcm.reduce([1, *steps]))  # windows begin at multiples of this
        self._whole_feeds = cache(self._common_feeds)

    def step_network(self) -> StepNetwork:
        """Return a function that evaluates the network on the whole state [B, *shape], as the average over overlapping
        windows."""

        def evaluate(index: int, step: Step, u: Array) -> list[Array]:
            places = self._places(index)
            count = len(step.branches) * step.heads
            totals = [np.zeros((len(u), *self._shape), np.float64) for _ in range(count)]
            weights = np.zeros(self._shape, np.float64)
            for start in range(0, len(places), self._tiles.batch):
                some = places[start : start + self._tiles.batch]
                x = np.concatenate([self._cut_window(u, place) for place in some])
                call = finite_outputs(StepCall(self._sampler.denoiser, partial(self._window_feeds, some)), self._plan)
                outputs = call(index, step, x)
                for number, place in enumerate(some):
                    weight = blend_weights(place, self._shape, self._tiles.margin, self._tiles.overlap)
                    weights[place] += weight
                    mine = slice(number * self._samples, (number + 1) * self._samples)
                    for total, output in zip(totals, outputs, strict=True):
                        total[(slice(None), *place)] += weight * output[mine]
            return [(total / weights).astype(np.float32) for total in totals]

        return evaluate

    def _cut_window(self, u: Array, place: Place) -> Array:
        """Return the network's input for one window. It includes the last x0 if the network is self-conditioned."""
        if not self._takes.self_condition:
            return u[(slice(None), *place)]
        return np.concatenate([half[(slice(None), *place)] for half in np.split(u, 2, axis=1)], axis=1)

    def _places(self, index: int) -> list[Place]:
        """Return the windows of a step."""
        offset = len(self._plan.steps) - index if self._tiles.moves else 0
        return window_places(self._shape, self._window, self._tiles.overlap, self._multiple, offset)

    def _window_feeds(self, places: Sequence[Place], index: int) -> Mapping[str, NDArray[Any]]:
        """Return the network's inputs except x for the windows at `places`, for all samples, one window after the
        other."""
        if not self._cut:
            return self._whole_feeds(len(places))(index)
        step = msgspec.structs.replace(self._plan, steps=self._plan.steps[index : index + 1])
        return self._sampler.step_call(step, self._samples * len(places), *self._values(places)).feeds(0)

    def _common_feeds(self, windows: int) -> Callable[[int], Mapping[str, NDArray[Any]]]:
        """Return a function from a step's index to the network's inputs except x, for the case that no condition
        depends on the place of the window. All windows then share the same inputs, which are computed once."""
        places: list[Place] = [tuple(slice(0, size) for size in self._window)] * windows
        return self._sampler.step_call(self._plan, self._samples * windows, *self._values(places)).feeds

    def _values(self, places: Sequence[Place]) -> tuple[dict[str, Any], Overrides]:
        """Return the conditions of the windows at `places`, for all samples, and the conditions that replace them in
        other branches."""

        def cut_conditions(values: Mapping[str, Any]) -> dict[str, Any]:
            return {
                name: value if value is None else self._cut_condition(name, value, places)
                for name, value in values.items()
            }

        return cut_conditions(self._condition), {
            branch: cut_conditions(values) for branch, values in self._branches.items()
        }

    def _cut_condition(self, name: str, value: Any, places: Sequence[Place]) -> Any:
        """Return the values of a condition for the windows at `places`, for all samples. A condition whose size depends
        on that of x is cut like x."""
        ratios = self._ratios(name, value)
        if ratios is None:
            return value if len(places) == 1 else [item for _ in places for item in value]
        array, cut = as_numbers(value, f"condition {name!r}", "give numbers of the whole, or of a window"), []
        for place in places:
            along = place[len(place) - len(ratios) :]
            slices = (
                slice(int(a.start * ratio), int(a.stop * ratio)) if ratio else slice(None)
                for a, ratio in zip(along, ratios, strict=True)
            )
            cut.append(array[(slice(None), *slices)])
        return np.concatenate(cut)

    def _ratios(self, name: str, value: Any) -> tuple[Fraction, ...] | None:
        """Return, for each axis of a condition whose size depends on that of x, the number of its elements per element
        of x.

        The ratio is 0 for an axis of the same size as the window's. None for any other condition.
        """
        entry = next((condition for condition in self._takes.conditions if condition.name == name), None)
        if entry is None or not entry.shape or isinstance(value, str):
            return None
        try:
            sizes = np.shape(value)[1:]
        except ValueError:  # the values differ in shape, which the check of all conditions reports
            return None
        if sizes == tuple(entry.shape) or len(sizes) != len(entry.shape) or len(sizes) > len(self._shape):
            return None
        axes = zip(entry.shape, sizes, self._window[-len(sizes) :], self._shape[-len(sizes) :], strict=True)
        ratios = [Fraction(0 if part == full else part, window) for part, full, window, _ in axes]
        if any(
            ratio and ratio * along != full for ratio, full, along in zip(ratios, sizes, self._shape[-len(sizes) :])
        ):
            raise UserError(
                f"condition {name!r} has the shape {list(sizes)} for samples {list(self._shape)}",
                f"give {list(entry.shape)} for all windows, or a shape with the same ratio to the samples' shape",
            )
        return tuple(ratios)
