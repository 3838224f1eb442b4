"""Networks that receive x in another layout than the scheduler: as several tensors, as a list with a tensor for each
row, or with its elements in another order, such as tokens.

The elements of x are found in the network's arguments by their values, which are random. A recording is then rewritten
as if the network had one argument x with the shape that the scheduler steps, and returned one tensor of that shape.
`FormedNetwork` is the network with this signature.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fewstep.export.sources.diffusers.recording.call_record import CallRecord, NetworkCall
from fewstep.export.sources.diffusers.recording.stand_ins import length_error, recording_error

X = "x of the scheduler"  # an argument of rewritten calls
PLACEHOLDER = 0.0  # of an argument with elements of x
AROUND = "around x in "  # an argument of rewritten calls: the other elements of one with elements of x

Leaves = dict[str, Any]


@dataclass(frozen=True)
class Elements:
    """Where the elements of x are in a network argument. order: for each element of a row of the argument, its index in
    x, or -1 if it is not in x. shape: the shape of a row."""

    order: Tensor
    shape: tuple[int, ...]


@dataclass(frozen=True)
class NetworkForm:
    """Where the elements of x are in the arguments and outputs of a network.

    lists: the names of arguments that are lists with a tensor for each row.
    inputs: the arguments that contain elements of x, by path.
    output: for each element of x, the index of its prediction in a row of the outputs, concatenated.
    x_shape: the shape of a sample of x.
    """

    lists: tuple[str, ...]
    inputs: Mapping[str, Elements]
    output: Tensor
    x_shape: tuple[int, ...]

    def rewrite(self, name: str, record: CallRecord) -> CallRecord:
        """Return the recording as that of a network with a single argument x and a single output. Raises UserError if a
        call cannot be rewritten in this way."""
        steps = []
        for step in record.steps:
            calls = tuple(self._rewrite_call(name, call) for call in step.calls)
            steps.append(replace(step, calls=calls, joined=1))
        return replace(record, steps=tuple(steps))

    def _rewrite_call(self, name: str, call: NetworkCall) -> NetworkCall:
        leaves, structure = _stack_lists(name, call, self.lists)
        others = dict[str, Tensor]()
        rows, size = len(call.output), prod(self.x_shape)
        x, is_set = torch.zeros(rows, size), torch.zeros(size, dtype=torch.bool)
        for path, elements in self.inputs.items():
            leaf = leaves.get(path)
            if not isinstance(leaf, Tensor) or tuple(leaf.shape) != (rows, *elements.shape):
                raise recording_error(
                    f"{name} passes {path} to its network with a different type or shape in some calls"
                )
            is_x = elements.order >= 0
            own, places = leaf.flatten(1)[:, is_x].float(), elements.order[is_x]
            if not torch.equal(own[:, is_set[places]], x[:, places[is_set[places]]]):
                raise recording_error(f"{name} passes x to its network twice, with different values in {path}")
            x[:, places], is_set[places] = own, True
            if not bool(is_x.all()):
                others[AROUND + path] = torch.where(is_x, 0.0, leaf.flatten(1)).reshape(leaf.shape)
            leaves[path] = PLACEHOLDER
        outputs = torch.cat([each.flatten(1) for each in (call.output, *call.more)], dim=1)
        output = outputs[:, self.output].reshape(rows, *self.x_shape)
        arguments = pytree.tree_unflatten(list(leaves.values()), structure)
        arguments |= {**others, X: x.reshape(rows, *self.x_shape)}
        return NetworkCall(call.component, *_flatten(arguments), output)

    @property
    def label(self) -> str:
        """The arguments with elements of x, as one text."""
        return ", ".join(self.inputs)


class FormedNetwork(nn.Module):
    """A network with x as one argument, and with one output of the shape of x."""

    def __init__(self, network: nn.Module, form: NetworkForm) -> None:
        super().__init__()
        self.network, self.form = network, form
        self.output = _Selection(form.output)
        self.inputs = nn.ModuleList(_Selection(each.order) for each in form.inputs.values())

    def forward(self, **arguments: Any) -> Tensor:
        x = arguments.pop(X)
        others = {path: arguments.pop(AROUND + path, None) for path in self.form.inputs}
        leaves, structure = _flatten(arguments)
        for (path, elements), selection in zip(self.form.inputs.items(), self.inputs, strict=True):
            rest = others[path]
            own = selection(x.flatten(1), None if rest is None else rest.flatten(1))
            leaves[path] = own.reshape(-1, *elements.shape)
        given = pytree.tree_unflatten(list(leaves.values()), structure)
        given |= {name: list(given[name].unbind(0)) for name in self.form.lists}
        returned = pytree.tree_leaves(self.network(**given))
        tensors = [each for each in returned if isinstance(each, Tensor) and each.is_floating_point()]
        rows = [torch.stack(tensors)] if self.form.lists else tensors
        together = torch.cat([each.flatten(1) for each in rows], dim=1) if len(rows) > 1 else rows[0].flatten(1)
        return self.output(together).reshape(-1, *self.form.x_shape)


class _Selection(nn.Module):
    """Selects elements of a row by their indices. Where the index is -1, the element is passed in by the caller."""

    order: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order, persistent=False)
        first = int(order[0])
        self.is_run = first >= 0 and torch.equal(order, torch.arange(first, first + len(order)))
        self.start, self.count, self.is_all = first, len(order), bool((order >= 0).all())

    def forward(self, rows: Tensor, rest: Tensor | None = None) -> Tensor:
        if self.is_run:
            return rows[:, self.start : self.start + self.count]
        chosen = rows.index_select(1, self.order.clamp(min=0))
        return chosen if self.is_all or rest is None else torch.where(self.order >= 0, chosen, rest)


def find_forms(name: str, base: CallRecord, reseeded: CallRecord) -> Iterator[NetworkForm]:
    """Yield the possible ways in which a network gets x in its arguments and returns the prediction, in the order in
    which they should be tried. The recordings differ only in their seed. Nothing is yielded if some element of x is in
    no argument."""
    step, other = base.steps[0], reseeded.steps[0]
    call, second = step.calls[0], other.calls[0]
    lists = _row_lists(call)
    (leaves, _), (others, _) = (_stack_lists(name, each, lists) for each in (call, second))
    codes, rows, inputs = _codes(step.sample[0], other.sample[0]), len(call.output), dict[str, Elements]()
    for path, leaf in leaves.items():
        pair = [each for each in (leaf, others.get(path)) if isinstance(each, Tensor) and each.dtype == torch.float32]
        if len(pair) < 2 or pair[0].shape != pair[1].shape or pair[0].dim() < 2 or len(pair[0]) != rows:
            continue
        order = _find(codes, _codes(pair[0][0], pair[1][0]))
        if bool((order >= 0).any()):
            inputs[path] = Elements(order, tuple(leaf.shape[1:]))
    found = [each.order[each.order >= 0] for each in inputs.values()]
    if not found or len(torch.cat(found).unique()) != len(codes):
        return
    for output in _possible_outputs(call, inputs, len(codes)):
        yield NetworkForm(lists, inputs, output, tuple(step.sample.shape[1:]))


def _possible_outputs(call: NetworkCall, inputs: Mapping[str, Elements], size: int) -> Iterator[Tensor]:
    """Yield possible positions of the prediction in the network's outputs, as an index for each element of x. The
    prediction is in the same place as x in the input, or in the order of x."""
    sizes = [each[0].numel() for each in (call.output, *call.more)]
    if sizes == [len(each.order) for each in inputs.values()]:
        together = torch.cat([each.order for each in inputs.values()])
        output, places = torch.zeros(size, dtype=torch.int64), torch.arange(len(together))
        output[together[together >= 0]] = places[together >= 0]
        yield output
    if sum(sizes) == size:
        yield torch.arange(size)


def _codes(value: Tensor, other: Tensor) -> Tensor:
    """Return one integer for each element of two tensors: equal ones are equal in both."""
    high, low = (each.float().contiguous().flatten().view(torch.int32).to(torch.int64) for each in (value, other))
    return (high << 32) | (low & 0xFFFFFFFF)


def _find(codes: Tensor, among: Tensor) -> Tensor:
    """Return the index in `codes` of each element of `among`, or -1 if it is not there."""
    ordered, index = codes.sort()
    place = torch.searchsorted(ordered, among).clamp(max=len(codes) - 1)
    return torch.where(ordered[place] == among, index[place], -1)


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
    for each in lists:
        if len({tensor.shape for tensor in arguments[each]}) != 1:
            raise length_error(f"{name} passes tensors of different shapes to its network in the list {each}")
        arguments[each] = torch.stack(arguments[each])
    return _flatten(arguments)


def _flatten(arguments: dict[str, Any]) -> tuple[Leaves, pytree.TreeSpec]:
    flat, structure = pytree.tree_flatten_with_path(arguments)
    return {pytree.keystr(path): leaf for path, leaf in flat}, structure
