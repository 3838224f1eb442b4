"""One evaluation of a plan's step: stack u for the branches, feed it with the other inputs, and split the output."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.any_plan import AnyStep
from fewstep.plans.plan import Step
from fewstep.runtime.arrays import Arrays, Float32
from fewstep.runtime.kinds.graph_entry import CARRIED, NAMED, NEXT
from fewstep.runtime.sampling.execute import Array
from fewstep.runtime.sampling.slots import CarryingNetwork, Slots

Number = TypeVar("Number", bound=np.generic)


class GraphCall(NamedTuple):
    """A call of a graph that was made: its inputs and outputs by name, and the output that is the prediction."""

    feeds: Arrays
    returned: Arrays
    output: Float32


Call = Callable[[NDArray[Any], Arrays, int, str], GraphCall]  # x [N, *x_shape], other inputs, group, network's name
Feeds = Callable[[int], Arrays]  # a step's number -> all inputs except x, [branches * B, ...]
OnCall = Callable[[int, GraphCall], None]  # receives a step's number and its finished call


@dataclass(frozen=True)
class StepCall:
    """The network calls of a compiled plan's steps, as executors need them.

    call: calls a denoiser, or other graphs.
    feeds: returns the inputs except x at each step.
    slots: the slots at the start of a run, for a denoiser with carried tensors or named outputs.
    named: the names of its named outputs.
    on_call: receives each finished call.
    """

    call: Call
    feeds: Feeds
    slots: Slots | None = None
    named: tuple[str, ...] = ()
    on_call: OnCall | None = None

    def __call__(self, index: int, step: Step, u: Array) -> list[Array]:
        """Evaluate a step at u [B, *x_shape]. Return its outputs [B, *x_shape]: all heads of the first branch, then all
        heads of the second, and so on."""
        return split_outputs(self.graph_call(index, step, u).output, step)

    def call_carrying(self, index: int, step: Step, u: Array, taken: Arrays) -> tuple[list[Array], Arrays]:
        """Call a step with the carried tensors `taken`. Returns its outputs, and the carried and named tensors that it
        returned."""
        made = self.graph_call(index, step, u, {CARRIED + name: array for name, array in taken.items()})
        banks = () if self.slots is None else self.slots.banks
        carried = {name: made.returned[NEXT + name] for name in banks if NEXT + name in made.returned}
        return split_outputs(made.output, step), carried | {name: made.returned[NAMED + name] for name in self.named}

    def logits(self, index: int, step: AnyStep, ids: NDArray[np.int64]) -> Float32:
        """Return the logits [branches * B, *shape, V] of a step for ids [B, *shape]."""
        return self.graph_call(index, step, ids).output

    def split_feeds(self, index: int, step: AnyStep) -> tuple[Arrays, ...]:
        """Return the inputs except x of each call of the network at a step. All branches are one call."""
        return (self.feeds(index),)

    def graph_call(self, index: int, step: AnyStep, u: NDArray[Any], ports: Arrays | None = None) -> GraphCall:
        """Call the network of a step on u. `ports` are further inputs, such as carried tensors."""
        fed = {**self.feeds(index), **ports} if ports else self.feeds(index)
        made = self.call(stack_branches(u, step), fed, step.group, step.network)
        if self.on_call is not None:
            self.on_call(index, made)
        return made

    @property
    def step_network(self) -> "StepCall | CarryingNetwork":
        """The network in the form that `execute` takes: a `CarryingNetwork` if it has carried tensors or named
        outputs."""
        return self if self.slots is None else CarryingNetwork(self.call_carrying, self.slots)


def stack_branches(u: NDArray[Number], step: AnyStep) -> NDArray[Number]:
    """Repeat a network input for each branch of a step, concatenated along the batch axis."""
    return u if len(step.branches) == 1 else np.concatenate([u] * len(step.branches))


def split_outputs(result: Array, step: Step) -> list[Array]:
    """Split a call's result into outputs [B, *x_shape]: the heads of each branch in turn."""
    if len(step.branches) == step.heads == 1:
        return [result]
    samples, channels = len(result) // len(step.branches), result.shape[1] // step.heads
    return [
        result[branch * samples : (branch + 1) * samples, head * channels : (head + 1) * channels]
        for branch in range(len(step.branches))
        for head in range(step.heads)
    ]


def dispatch_by_group(graphs: Sequence[Callable[[Arrays], Arrays]], x: str, output: str) -> Call:
    """Return a function that calls the graph of a step's range group. `x` and `output` are the names of the graphs'
    input and output."""

    def call(array: NDArray[Any], fed: Arrays, group: int, _: str) -> GraphCall:
        feeds = {**fed, x: array}
        returned = graphs[group](feeds)
        return GraphCall(feeds, returned, returned[output])

    return call
