"""A network of a bundle, loaded with one body and one inference engine: its inputs, and the calls of its graphs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.errors import UserError
from fewstep.runtime.arrays import Float32
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.reading import EXPORT_AGAIN, Bundle
from fewstep.runtime.kinds.graph_entry import CARRIED
from fewstep.runtime.kinds.positions import time_shape
from fewstep.runtime.kinds.sizes import output_shape, x_dtype
from fewstep.runtime.sampling.feeds import BodyInputs, BranchValues, check_times, plan_blocks
from fewstep.runtime.sampling.feeds import tensor_name as name_of
from fewstep.runtime.sampling.prologue_rows import RowCache, make_row_source
from fewstep.runtime.sampling.step_call import Feeds, GraphCall


@dataclass(frozen=True, repr=False)
class Network:
    """The loaded graphs of one body.

    A body with several graphs has its last one in `graph`, and those before it in `earlier`. `nulls` are the null
    values of conditions that are stored in files, by name.
    """

    bundle: Bundle
    body: Body
    graph: LoadedGraph
    prologue: LoadedGraph | None
    earlier: tuple[LoadedGraph, ...] = ()
    nulls: Arrays = field(default_factory=dict)
    conditioner: LoadedGraph | None = None

    @cached_property
    def inputs(self) -> BodyInputs:
        """The body's inputs except x."""
        return BodyInputs.from_body(self.bundle, self.body)

    @cached_property
    def last_rows(self) -> RowCache:
        """The cache of the conditioner's last rows."""
        return RowCache()

    def __call__(self, x: NDArray[Any], fed: Arrays, group: int) -> GraphCall:
        """Call the range group's graph for x [N, *x_shape]; its output is [N, heads * C, ...]."""
        is_single = len(self._graphs) == 1
        graph, entry, x_name, output_name = self._graphs[0 if is_single else self.body.graph_index(group)]
        others = fed if is_single else {each.name: fed[each.name] for each in entry.inputs if each.name in fed}
        feeds = {x_name: np.ascontiguousarray(x, x_dtype(self.bundle.manifest)), **others}
        returned = graph(feeds)
        output = returned.get(output_name)
        if output is None or output.shape != (len(x), *output_shape(self.bundle.manifest, x.shape[1:])):
            what = f"{self.bundle.path}: {entry.file} does not return the output that the manifest describes"
            raise UserError(what, EXPORT_AGAIN)
        return GraphCall(feeds, returned, output)

    def evaluate(self, x: NDArray[Any], block: Arrays, group: int) -> Float32:
        """Return the output [N, heads * C, ...] for x [N, *x_shape] and a block [N, ...] of times and conditions.

        Carried tensors are zeros.
        """
        fed = dict(self._feeds([block], [group])(0))
        for each in self.bundle.manifest.carried:
            fed[CARRIED + each.name] = np.zeros((len(x), *each.shape), each.dtype)
        return self(x, fed, group).output

    def feeds(self, plan: AnyPlan, samples: int, values_of: BranchValues) -> Feeds:
        """Return a function from a step's index to the inputs except x. The conditioner and prologue run now, once."""
        for has_second in {step.to is not None for step in plan.steps}:
            check_times(has_second, self.inputs.has_second_time)
        blocks = plan_blocks(plan, values_of, samples, time_shape(self.bundle.manifest))
        return self._feeds(blocks, [step.group for step in plan.steps])

    def _feeds(self, blocks: Sequence[Arrays], groups: Sequence[int]) -> Feeds:
        """Return a function from a block's index to the inputs except x. `groups` are the blocks' range groups."""
        inputs = self.inputs
        direct = [
            {name: block[key] for name, key in inputs.direct.items()}
            | {name: np.array([group], np.int64) for name in inputs.groups}
            for block, group in zip(blocks, groups, strict=True)
        ]
        if not inputs.rows:
            return direct.__getitem__
        dealt = make_row_source(self.bundle, self.conditioner, self.prologue, blocks, inputs.rows, self.last_rows)
        return lambda index: direct[index] | dealt(index)

    @cached_property
    def _graphs(self) -> list[tuple[LoadedGraph, Any, str, str]]:
        """The body's graphs, each with its manifest entry and the names of its ports for x and output."""
        return [
            (loaded, entry, name_of(entry, "x"), name_of(entry, "output"))
            for loaded, entry in zip((*self.earlier, self.graph), self.body.graphs, strict=True)
        ]
