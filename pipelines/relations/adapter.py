"""A recorded denoiser with the signature `forward(x, time, *conditions)`, or with a second time."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fewstep.pipelines.recording.call_record import only_float_tensor
from fewstep.pipelines.recording.form import XForm
from fewstep.pipelines.relations.arguments import Argument, NetworkArguments
from fewstep.pipelines.relations.relations import Relations


class RecordedNetwork(nn.Module):
    """Calls a network as its pipeline does, for one branch of guidance. Constant arguments have the values of the
    recording. With two heads, a learned variance follows the prediction along the channels. The last `unread`
    conditions are for the text encoder only."""

    def __init__(
        self,
        network: nn.Module,
        found: Relations,
        arguments: NetworkArguments,
        heads: int = 1,
        form: XForm | None = None,
        unread: int = 0,
    ) -> None:
        super().__init__()
        self.network, self.found, self.arguments, self.heads, self.form = network, found, arguments, heads, form
        self.unread = unread

    def forward(self, x: Tensor, time: Tensor, *conditions: Tensor) -> Tensor:
        """Return the prediction. A network with a second time takes it after the first: (x, time, to, *conditions)."""
        passed = pytree.tree_unflatten(list(self.bind(x, time, *conditions).values()), self.arguments.structure)
        output = self.network(**passed) if self.form is None else self.form(self.network, passed)
        return self.place(only_float_tensor(output))

    def bind(self, x: Tensor, time: Tensor, *conditions: Tensor) -> dict[str, Any]:
        """Return the arguments of the network by path, for those of `forward`."""
        found, arguments = self.found, self.arguments.arguments
        end, conditions = (conditions[0], conditions[1:]) if found.seconds else (time, conditions)
        conditions = conditions[: len(conditions) - self.unread]
        given = dict(zip((path for path, each in arguments.items() if each.condition), conditions, strict=True))
        leaves: dict[str, Any] = {}
        for path in self.arguments.paths:
            if path == found.x:
                leaves[path] = x
            elif path in found.times:
                leaves[path] = self._scale_time(path, end if path in found.seconds else time)
            else:
                value = self._value(path, given, x)
                leaves[path] = value.movedim(0, 1) if path in found.second_axes else value
        return leaves

    def place(self, output: Tensor) -> Tensor:
        """Return the prediction, with a learned variance after it, from the network's output."""
        combination = self.found.combination
        prediction: Tensor = combination.place(output)
        prediction = -prediction if combination.sign < 0 else prediction
        return prediction if self.heads == 1 else torch.cat([prediction, read_variance(output, prediction)], dim=1)

    def _scale_time(self, path: str, time: Tensor) -> Tensor:
        """Return the network's time [B, ...] from the scheduler's [B]."""
        (alpha, beta), shape = self.found.times[path], self.arguments.time_shapes[path]
        if alpha != 1:
            time = time * alpha
        if beta != 0:
            time = time + beta
        time = time.reshape(-1, *(1 for _ in shape)).expand(-1, *shape) if shape else time
        still = self.found.still_times.get(path)
        return time if still is None else torch.where(still.isnan(), time, still)

    def _value(self, path: str, given: dict[str, Tensor], x: Tensor) -> Any:
        argument: Argument = self.arguments.arguments[path]
        value = given.get(path)
        if argument.counts is not None:
            of, axis = argument.counts
            count, places = given[of].shape[1 + axis], argument.value
            if argument.has_zeros:  # a trace cannot read the values
                return places.new_zeros(count, *places.shape[1:])
            return torch.arange(count, dtype=argument.dtype)
        constant = argument.value if argument.of_size is None else argument.of_size.value(*x.shape[-2:])
        if value is None and not argument.repeats:
            return constant
        if value is None or argument.places:
            rows = constant.expand(x.shape[0], *constant.shape[1:]).contiguous()  # networks may call `view`
            value = rows if value is None else _replace_numbers(rows, argument.places, value)
        value = value if value.dtype == argument.dtype else value.to(argument.dtype)
        if argument.repeats > 1:
            value = value.unsqueeze(1).expand(-1, argument.repeats, *value.shape[1:]).flatten(0, 1)
        return value


def read_variance(output: Tensor, prediction: Tensor) -> Tensor:
    """Return the channels of a network's output [B, 2 C, ...] after those of its prediction [B, C, ...]."""
    return output[:, prediction.shape[1] :]


def _replace_numbers(rows: Tensor, places: Sequence[int], numbers: Tensor) -> Tensor:
    """Return rows [B, ...] with numbers [B] or [B, number of places] at these places of each row, counted in its last
    axes."""
    columns = list(rows.flatten(1).unbind(1))
    for place, column in zip(places, numbers.reshape(len(rows), -1).unbind(1), strict=True):
        columns[place] = column.to(rows.dtype)
    return torch.stack(columns, dim=1).reshape(rows.shape)
