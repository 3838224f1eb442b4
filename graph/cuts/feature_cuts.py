"""Split a denoiser's body for feature caching: a full graph that also returns inner features, and a light graph that
reads them instead of computing them.

Inner features change slowly from step to step. So a *light* step computes only the part of the network close to x and
to the output, and reads the features of an earlier step, which was *full*. There are two kinds of cuts:

- A cut at one tensor. The light graph still depends on x by a skip connection, as in U-Nets (DeepCache: Ma et al. 2023,
  arXiv 2312.00858). These cuts are named `depth1`, `depth2`, ... from the cheapest light graph on.
- A cut of a chain of residual blocks h_0, h_1, ..., h_L, as in transformers. The features are h_(L-B) - h_F. The light
  graph computes the first F and the last B blocks, and adds the features in between. These cuts are named `F1B0`,
  `F1B1`, ... as in DBCache of cache-dit, whose case F1B0 is the First Block Cache of ParaAttention.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from fewstep.graph.cuts.prologue import can_be_row
from fewstep.graph.extents import restrict_extents
from fewstep.graph.graph import Graph, Node, Value, X, rename_inputs
from fewstep.graph.index import Index, index, sort_topologically
from fewstep.graph.mac_count import estimate_macs
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.selection import SIZES
from fewstep.graph.types import Types, infer_types
from fewstep.plans.errors import UserError
from fewstep.runtime.kinds.graph_entry import CARRIED, NEXT

MOST_WORK = 0.75  # share of the body's work above which a light graph saves too little
LEAST_BLOCKS = 3  # least length of a chain; a shorter one has nothing between its first block and its last
BLOCKS = re.compile(r"F(\d{1,3})B(\d{1,3})", re.ASCII)


@dataclass(frozen=True)
class Cut:
    """A place at which a body can be cut for feature caching.

    end: the tensor that the light graph does not compute. start: for a chain of blocks, the tensor that is subtracted
        from `end` to get the features; None if the features are `end` itself. share: the multiply-adds of the light
        graph as a fraction of those of the body.
    """

    name: str
    end: str
    start: str | None
    share: float

    def describe(self) -> str:
        """Return the cut's name and the fraction of the body's work that a light step does, as text."""
        return f"{self.name} ({self.share:.0%} of the work)"


@dataclass(frozen=True)
class SplitBody:
    """The two graphs that result from a cut: `full` returns the output next_FEATURES, and `light` takes it as its input
    carried_FEATURES. `features` has its dtype and shape."""

    full: Graph
    light: Graph
    features: Value


def find_cuts(body: Graph) -> tuple[Cut, ...]:
    """Return the cuts of a body whose light graph has at most a fraction `MOST_WORK` of the body's work, the cheapest
    first."""
    search = _Search(body)
    return tuple(sorted((*search.depth_cuts, *search.usual_block_cuts()), key=lambda cut: cut.share))


def choose_cut(body: Graph, name: str) -> Cut:
    """Return the cut with this name: one of `find_cuts`, FnBm of a chain of blocks (the first n and the last m blocks
    run at every step), or a tensor of the body.

    Raises UserError, which lists the cuts, for any other name.
    """
    search, blocks, cuts = _Search(body), BLOCKS.fullmatch(name), find_cuts(body)
    found = next((cut for cut in cuts if cut.name == name), None) or search.cut_at(name, name)
    if found is None and blocks is not None:
        found = search.block_cut(int(blocks[1]), int(blocks[2]))
    if found is not None:
        return found
    if not cuts:
        what = f"this network cannot be cut at {name!r}, or anywhere else, such that a light step saves work"
        raise UserError(what, "leave --cache out")
    raise UserError(f"this network has no cut {name!r}", f"choose {', '.join(cut.describe() for cut in cuts)}")


def split_body(body: Graph, cut: Cut, features: str) -> SplitBody:
    """Split a body at a cut. Return the full graph, which also returns the features, and the light graph, which reads
    them; both share the body's weights. `features` is the name of the carried tensor."""
    search = _Search(body)
    port = replace(search.types.values[cut.end], name=NEXT + features)
    taken, kept = replace(port, name=CARRIED + features), search.light_nodes(cut.end, cut.start)
    if cut.start is None:
        tap = Node("Identity", (cut.end,), (port.name,), name=port.name)
        light = [rename_inputs(node, {cut.end: taken.name}) for node in kept]
    else:
        tap = Node("Sub", (cut.end, cut.start), (port.name,), name=port.name)
        join = Node("Add", (cut.start, taken.name), (cut.end,), name=f"{cut.end}_from_{features}")
        light = [*sort_topologically([*kept, join], {*body.constants, *(v.name for v in (*body.inputs, taken))})]
    full = replace(body, nodes=(*body.nodes, tap), outputs=(*body.outputs, port))
    read = {name for node in light for name in node.inputs}
    inputs = tuple(value for value in body.inputs if value.name == X or value.name in read)
    rest = drop_unused(replace(body, nodes=tuple(light), inputs=(*inputs, taken)))
    return SplitBody(full, restrict_extents(rest), taken)


@dataclass(frozen=True)
class _Search:
    """A search for the cuts of one body. Properties of the body that several methods need are cached."""

    body: Graph

    @cached_property
    def idx(self) -> Index:
        return index(self.body)

    @cached_property
    def types(self) -> Types:
        """The dtypes and shapes of the body's tensors."""
        return infer_types(self.body)

    @cached_property
    def work(self) -> Mapping[str, int]:
        """The multiply-adds of each node, by its first output."""
        return {node.output: estimate_macs(node, self.types) for node in self.body.nodes}

    def light_nodes(self, end: str, start: str | None = None) -> list[Node]:
        """Return the nodes that the outputs and `start` need if the tensor `end` is given."""
        needed = self.idx.dependencies([value.name for value in self.body.outputs], [end])
        if start is not None:
            needed |= self.idx.dependencies([start])
        return [node for node in self.body.nodes if not needed.isdisjoint(node.outputs)]

    def cut_at(self, end: str, name: str, start: str | None = None) -> Cut | None:
        """Return the cut at a tensor. None if the tensor cannot be passed from step to step, or if the light graph
        would not depend on x.

        There is no cut at x itself: the light graph would read the x of an earlier step instead of its own.
        """
        if end == X or end not in self._moving or not can_be_row(end, self.types):
            return None
        light = self.light_nodes(end, start)
        reached = _find_tensors_after_x(light)
        is_fresh = start is not None or all(value.name in reached for value in self.body.outputs)
        if not is_fresh or not any(self.work[node.output] for node in light if node.output in reached):
            return None
        share = sum(self.work[node.output] for node in light) / max(sum(self.work.values()), 1)
        return Cut(name, end, start, share)

    @cached_property
    def depth_cuts(self) -> list[Cut]:
        """Return the cuts at a single tensor, sorted by the work that remains. Of several with the same work, only the
        one with the fewest bytes is kept, and of those the last one."""
        found: dict[float, Cut] = {}
        for node in self.body.nodes:
            cut = self.cut_at(node.output, node.output)
            if cut is not None and cut.share <= MOST_WORK:
                other = found.get(cut.share)
                if other is None or self._bytes(cut) <= self._bytes(other):
                    found[cut.share] = cut
        return [replace(found[share], name=f"depth{number}") for number, share in enumerate(sorted(found), 1)]

    def usual_block_cuts(self) -> list[Cut]:
        """Return the cuts of a chain of blocks that are offered to users: the light graph keeps few blocks at the start
        of the chain, and at most one at its end."""
        firsts = sorted({0, 1, 2, max(len(self._chain) - 1, 0) // 4})
        cuts = [self.block_cut(first, last) for last in (0, 1) for first in firsts]
        return [cut for cut in cuts if cut is not None and cut.share <= MOST_WORK]

    def block_cut(self, first: int, last: int) -> Cut | None:
        """Return the cut after which only the first `first` and the last `last` blocks of the chain run at every step.
        None if the body has no such chain of blocks."""
        end = len(self._chain) - 1 - last
        if len(self._chain) <= LEAST_BLOCKS or not first < end:
            return None
        return self.cut_at(self._chain[end], f"F{first}B{last}", self._chain[first])

    @cached_property
    def _chain(self) -> list[str]:
        """The tensors h_0, ..., h_L between the residual blocks of a body; empty if the body is not a chain of such
        blocks.

        A block of a transformer has several residual sums, such as those of attention and of the MLP. A block is
        therefore the shortest sequence of operations whose repetition gives the whole chain. If there is no such
        sequence, each sum ends a block.
        """
        sums = self._residual_sums
        kinds = [self._ops_between(before, after) for before, after in pairwise(sums)]
        periods = (number for number in range(1, len(kinds) + 1) if len(kinds) % number == 0)
        period = next((period for period in periods if kinds == kinds[:period] * (len(kinds) // period)), 1)
        return sums[::period]

    @property
    def _residual_sums(self) -> list[str]:
        """The longest run of tensors h, h + f(h), ... of one shape through which all of x reaches the outputs."""
        runs: list[list[str]] = [[]]
        for name in self._gates:
            node, shape, last = self.idx.producers[name], self.types.shape(name), runs[-1][-1:]
            is_sum = node.op == "Add" and self._moving.issuperset(node.inputs)
            if is_sum and last and last[0] in node.inputs and self.types.shape(last[0]) == shape:
                runs[-1].append(name)
            elif can_be_row(name, self.types):
                runs.append([name])
        return max(runs, key=len)

    @property
    def _gates(self) -> list[str]:
        """The single tensors through which every path from x to the outputs passes, in topological order."""
        inner = [node.output for node in self.body.nodes if node.output in self._moving - self.idx.outputs]
        return [name for name in inner if self.idx.outputs.isdisjoint(_find_tensors_after_x(self.light_nodes(name)))]

    def _ops_between(self, before: str, after: str) -> tuple[str, ...]:
        """Return the types of the operations on all paths from one tensor to another."""
        way = self.idx.dependents([before]) & self.idx.dependencies([after], [before])
        return tuple(node.op for node in self.body.nodes if node.output in way)

    @cached_property
    def _moving(self) -> frozenset[str]:
        """The tensors whose values depend on x."""
        return self.idx.dependents([X], SIZES)

    def _bytes(self, cut: Cut) -> int:
        return self.types.sample_bytes(cut.end) or 0


def _find_tensors_after_x(nodes: Sequence[Node]) -> set[str]:
    """Return x and all tensors computed from it, except the sizes of tensors. `nodes` are in topological order."""
    reached = {X}
    for node in nodes:
        if node.op not in SIZES and not reached.isdisjoint(node.inputs):
            reached.update(node.outputs)
    return reached
