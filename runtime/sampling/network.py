"""A network of a bundle, loaded with one body and one inference engine: its inputs, and the calls of its graphs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.errors import UserError
from fewstep.runtime.arrays import Float32
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.backends.lru_cache import LruCache
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.graph_entry import CARRIED
from fewstep.runtime.kinds.positions import time_shape
from fewstep.runtime.kinds.sizes import apply_sizes, input_shape, output_shape
from fewstep.runtime.sampling.feeds import BodyInputs, BranchValues, check_times, join_branches, plan_times
from fewstep.runtime.sampling.feeds import tensor_name as name_of
from fewstep.runtime.sampling.prologue_rows import Blocks, PairCache, RowCache, Rows, make_row_source
from fewstep.runtime.sampling.step_call import Feeds, GraphCall

PLANS_KEPT = 16
LARGE = 2**18  # limit in bytes of the times of a plan's steps; larger ones are not kept


@dataclass(frozen=True)
class _Shared:
    """What all calls of a plan on the same number of samples have in common.

    branches: the distinct tuples of branches of the plan's steps.
    places: for each step, the index of its tuple in `branches`.
    times, groups: the times and the range groups of the steps.
    pairs: the cache of the last distinct pairs of time and condition.
    """

    plan: AnyPlan
    branches: Sequence[tuple[str, ...]]
    places: Sequence[int]
    times: Sequence[Arrays]
    groups: Sequence[NDArray[np.int64]]
    pairs: PairCache


@dataclass(frozen=True, repr=False)
class Network:
    """The loaded graphs of one body.

    If a body has several graphs, `graph` is the last one, and `earlier` are those for the noisier steps. `nulls` are
    the null values of conditions that are stored in files, by name.
    """

    bundle: Bundle
    body: Body
    graph: LoadedGraph
    prologue: LoadedGraph | None
    earlier: tuple[LoadedGraph, ...] = ()
    nulls: Arrays = field(default_factory=dict)
    conditioner: LoadedGraph | None = None

    def with_sizes(self, sizes: Mapping[str, int]) -> "Network":
        """Return this network for x of other sizes, with the same graphs. Raises UserError for an invalid size."""
        return replace(self, bundle=replace(self.bundle, manifest=apply_sizes(self.bundle.manifest, sizes)))

    @cached_property
    def inputs(self) -> BodyInputs:
        """The names of the body's inputs except x."""
        return BodyInputs.from_body(self.bundle, self.body)

    @cached_property
    def last_rows(self) -> RowCache:
        """The cache of the conditioner's last rows."""
        return RowCache()

    def __call__(self, x: NDArray[Any], fed: Arrays, group: int) -> GraphCall:
        """Call the range group's graph for x [N, *x_shape]; its output is [N, heads * C, ...].

        A self-conditioned network takes x with the last x0 after it, [N, 2 C, ...].
        """
        manifest, is_single = self.bundle.manifest, len(self._graphs) == 1
        graph, entry, x_name, output_name = self._graphs[0 if is_single else self.body.graph_index(group)]
        others = fed if is_single else {port.name: fed[port.name] for port in entry.inputs if port.name in fed}
        feeds = {x_name: np.ascontiguousarray(x, self._x_dtype), **others}
        returned = graph(feeds)
        output = returned.get(output_name)
        is_like_x = output is not None and output.shape == x.shape and self._keeps_shape
        if output is None or not (is_like_x or output.shape == (len(x), *output_shape(manifest, self._shape_of(x)))):
            what = f"{self.bundle.path}: {entry.file} does not return the output that the manifest describes"
            raise UserError(what, self.bundle.export_again)
        return GraphCall(feeds, returned, output)

    def evaluate(self, x: NDArray[Any], block: Arrays, group: int) -> Float32:
        """Return the output [N, heads * C, ...] for x [N, *x_shape] and a block [N, ...] of times and conditions.

        Carried tensors are zeros.
        """
        blocks = Blocks([block], [0], [block])
        fed = dict(self._feeds(blocks, [np.array([group], np.int64)], PairCache())(0))
        for tensor in self.bundle.manifest.carried:
            fed[CARRIED + tensor.name] = np.zeros((len(x), *tensor.shape), tensor.dtype)
        return self(x, fed, group).output

    def feeds(self, plan: AnyPlan, samples: int, values_of: BranchValues) -> Feeds:
        """Return a function from a step's index to the inputs except x. The conditioner and prologue run now, once."""
        shared = self._share_plan(plan, samples)
        conditions = [join_branches(branches, values_of) for branches in shared.branches]
        return self._feeds(Blocks(conditions, shared.places, shared.times), shared.groups, shared.pairs)

    def _share_plan(self, plan: AnyPlan, samples: int) -> "_Shared":
        """Return what all calls of a plan on this number of samples have in common. It is kept for the last plans,
        unless it is large.

        Raises UserError if the plan's number of times (one or two) is not that of the network.
        """
        key = id(plan), samples
        kept = self._last_plans.get(key)
        if kept is not None and kept.plan is plan:
            return kept
        for has_second in {step.to is not None for step in plan.steps}:
            check_times(has_second, self.inputs.has_second_time)
        times = plan_times(plan, samples, time_shape(self.bundle.manifest))
        groups = [np.array([step.group], np.int64) for step in plan.steps]
        branches = list(dict.fromkeys(step.branches for step in plan.steps))
        places = [branches.index(step.branches) for step in plan.steps]
        made = _Shared(plan, branches, places, times, groups, PairCache())
        if sum(array.nbytes for time in times for array in time.values()) > LARGE:
            return made
        with self._last_plans.lock:
            self._last_plans.pop(key, None)  # the key of another plan, which was freed
        return self._last_plans.get_or_make(key, lambda: made)

    def _feeds(self, blocks: Blocks, groups: Sequence[NDArray[np.int64]], pairs: PairCache) -> Feeds:
        """Return a function from a block's index to the inputs except x. `groups` are the blocks' range groups [1]."""
        inputs, rows_of = self.inputs, None
        if inputs.rows:
            rows_of = make_row_source(
                self.bundle, self.conditioner, self.prologue, blocks, inputs.rows, self.last_rows, pairs
            )

        def feeds(index: int) -> Rows:
            fed = {} if rows_of is None else rows_of(index)
            for name, key in inputs.direct.items():
                fed[name] = blocks.value(index, key)
            for name in inputs.groups:
                fed[name] = groups[index]
            return fed

        return feeds

    @cached_property
    def _last_plans(self) -> "LruCache[tuple[int, int], _Shared]":
        return LruCache(PLANS_KEPT)

    @cached_property
    def _x_dtype(self) -> np.dtype[Any]:
        return np.dtype(self.bundle.manifest.space.dtype)

    @cached_property
    def _keeps_shape(self) -> bool:
        """Whether an output has the shape of x."""
        manifest = self.bundle.manifest
        return output_shape(manifest, (1, 1)) == input_shape(manifest, (1, 1))

    def _shape_of(self, x: NDArray[Any]) -> tuple[int, ...]:
        """Return the shape of one sample of x, without the x0 that a self-conditioned network takes after it."""
        channels, *others = x.shape[1:]
        return (channels // 2 if self.bundle.manifest.self_condition else channels, *others)

    @cached_property
    def _graphs(self) -> list[tuple[LoadedGraph, Any, str, str]]:
        """The loaded graphs of the body as tuples (graph, its manifest entry, name of its input x, name of its
        output)."""
        return [
            (loaded, entry, name_of(entry, "x"), name_of(entry, "output"))
            for loaded, entry in zip((*self.earlier, self.graph), self.body.graphs, strict=True)
        ]
