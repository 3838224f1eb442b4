"""Networks that receive x in another layout than the scheduler: with other channels or tokens, as several tensors, as a
list with a tensor for each row, or with its elements in another order.

The elements of x are found in the network's arguments by their values, which are random. A recording is then rewritten
as if the network had one argument x with the shape that the scheduler steps. A network that returns several tensors, or
other elements than x, is rewritten to return one tensor of that shape.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fewstep.pipelines.recording.call_record import CallRecord, NetworkCall, float_tensors
from fewstep.pipelines.recording.element_map import ElementMap, find, invert
from fewstep.pipelines.recording.form import Leaves, XForm, fill, flatten, refuse_argument
from fewstep.pipelines.recording.stand_ins import LengthError, recording_error


class NetworkForm(XForm):
    """Where x is in the arguments and outputs of a network.

    lists: the names of arguments that are lists with a tensor for each row.
    inputs: the maps from x to the arguments that contain elements of x, by path.
    output: the map from a row of the outputs, concatenated, to the prediction; None if there is a single output, in
        which the prediction has still to be found.
    x_shape: the shape of a sample of x.
    """

    def __init__(
        self,
        lists: tuple[str, ...],
        inputs: Mapping[str, ElementMap],
        output: ElementMap | None,
        x_shape: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.lists, self.paths, self.x_shape = lists, tuple(inputs), x_shape
        self.inputs, self.output = nn.ModuleList(inputs.values()), output

    @property
    def has_free_sizes(self) -> bool:
        """Whether `forward` takes x of other sizes: the network gets it between other elements along one axis."""
        return self.output is None and all(elements.joins for _, elements in self._maps())

    def rewrite_call(self, name: str, call: NetworkCall) -> NetworkCall:
        leaves, structure = _stack_lists(name, call, self.lists)
        others = dict[str, dict[str, Tensor]]()
        rows, size = len(call.output), prod(self.x_shape)
        x, is_set = torch.zeros(rows, size), torch.zeros(size, dtype=torch.bool)
        for path, elements in self._maps():
            leaf = leaves.get(path)
            if not isinstance(leaf, Tensor) or tuple(leaf.shape) != (rows, *elements.target_shape):
                raise refuse_argument(name, path)
            is_x = elements.order >= 0
            own, places = leaf.flatten(1)[:, is_x].float(), elements.order[is_x]
            if not torch.equal(own[:, is_set[places]], x[:, places[is_set[places]]]):
                raise recording_error(f"{name} passes x to its network twice, with different values in {path}")
            x[:, places], is_set[places] = own, True
            others[path] = elements.others(leaf)
        leaves, structure = self.join_x(leaves, structure, x.reshape(rows, *self.x_shape), others)
        if self.output is None:
            return replace(call, leaves=leaves, structure=structure)
        output = self._read_output((call.output, *call.more))
        return replace(call, leaves=leaves, structure=structure, output=output, more=(), is_list=False)

    def _maps(self) -> Iterator[tuple[str, ElementMap]]:
        for path, elements in zip(self.paths, self.inputs, strict=True):
            assert isinstance(elements, ElementMap)  # a ModuleList has modules of any class
            yield path, elements

    def forward(self, network: nn.Module, arguments: Mapping[str, Any]) -> Any:
        """Call a network with the arguments of a rewritten call. Returns the prediction, or what the network returns if
        the map of its output is unknown."""
        x, rest, given = self.split_x(arguments)
        given = fill(given, {path: elements(x, rest[path]) for path, elements in self._maps()})
        given |= {name: list(given[name].unbind(0)) for name in self.lists}
        returned = network(**given)
        if self.output is None:
            return returned
        tensors = float_tensors(returned)
        return self._read_output([torch.stack(tensors)] if self.lists else tensors)

    def _read_output(self, tensors: Sequence[Tensor]) -> Tensor:
        assert self.output is not None, "the caller tests it"
        rows = [tensor.flatten(1) for tensor in tensors]
        prediction: Tensor = self.output(torch.cat(rows, dim=1) if len(rows) > 1 else rows[0])
        return prediction


def find_forms(name: str, base: CallRecord, reseeded: CallRecord) -> Iterator[NetworkForm]:
    """Yield the possible ways in which a network gets x in its arguments and returns the prediction, in the order in
    which they should be tried. The recordings differ only in their seed. Nothing is yielded if some element of x is in
    no argument."""
    step, other = base.steps[0], reseeded.steps[0]
    call, second = step.calls[0], other.calls[0]
    lists = _row_lists(call)
    (leaves, _), (others, _) = (_stack_lists(name, own_call, lists) for own_call in (call, second))
    x, rows, inputs = torch.stack([step.sample[0], other.sample[0]]), len(call.output), dict[str, ElementMap]()
    x_shape, has_one = tuple(step.sample.shape[1:]), step.joined == 1 and not call.more and not call.is_list
    for path, leaf in leaves.items():
        pair = [
            value for value in (leaf, others.get(path)) if isinstance(value, Tensor) and value.dtype == torch.float32
        ]
        if len(pair) < 2 or pair[0].shape != pair[1].shape or pair[0].dim() < 2 or len(pair[0]) != rows:
            continue
        elements = None if torch.equal(*pair) else find(x, torch.stack([value[0] for value in pair]))
        if elements is not None:
            inputs[path] = elements
    if has_one:
        yield from (
            NetworkForm((), {path: elements}, None, x_shape) for path, elements in inputs.items() if elements.inserts
        )
    known = [elements.order[elements.order >= 0] for elements in inputs.values()]
    if not known or len(torch.cat(known).unique()) != x[0].numel():
        return
    sizes = [output[0].numel() for output in (call.output, *call.more)]
    for order in _possible_outputs(sizes, inputs, x[0].numel()):
        yield NetworkForm(lists, inputs, ElementMap(order, (sum(sizes),), x_shape), x_shape)


def _possible_outputs(sizes: Sequence[int], inputs: Mapping[str, ElementMap], size: int) -> Iterator[Tensor]:
    """Yield possible positions of the prediction in the network's outputs of these sizes, as an index for each element
    of x. The prediction is in the same place as x in the input, or in the order of x."""
    if sizes == [len(elements.order) for elements in inputs.values()]:
        yield invert(torch.cat([elements.order for elements in inputs.values()]), size)
    if sum(sizes) == size:
        yield torch.arange(size)


def _row_lists(call: NetworkCall) -> tuple[str, ...]:
    """Return the names of those arguments that are lists with a tensor for each row, if the network returns such a
    list; otherwise none."""
    rows = len(call.output)
    return tuple(
        name
        for name, value in call.arguments.items()
        if call.is_list and isinstance(value, list) and len(value) == rows and isinstance(value[0], Tensor)
    )


def _stack_lists(name: str, call: NetworkCall, lists: tuple[str, ...]) -> tuple[Leaves, pytree.TreeSpec]:
    """Return a call's tensors by path, and its structure, with each list in `lists` stacked to one tensor."""
    if not lists:
        return dict(call.leaves), call.structure
    arguments = call.arguments
    for path in lists:
        if len({tensor.shape for tensor in arguments[path]}) != 1:
            raise LengthError(f"{name} passes tensors of different shapes to its network in the list {path}")
        arguments[path] = torch.stack(arguments[path])
    return flatten(arguments)
