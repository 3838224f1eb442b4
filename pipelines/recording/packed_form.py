"""Networks that receive latents as the tokens that their pipeline's scheduler steps."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.pipelines.recording.call_record import CallRecord, NetworkCall, only_float_tensor
from fewstep.pipelines.recording.element_map import ElementMap, find
from fewstep.pipelines.recording.form import XForm, fill, refuse_argument
from fewstep.pipelines.recording.packing import Packing


class PackedForm(XForm):
    """Where the tokens of x are in an argument of a network, and in the single tensor that it returns.

    path: the path of the argument. elements: the map from the tokens to it: all of it, or a part along one axis.
    at_end: the network returns them after other tokens, not before them.
    """

    def __init__(self, packing: Packing, path: str, elements: ElementMap, at_end: bool) -> None:
        super().__init__()
        self.packing, self.paths, self.elements, self.at_end = packing, (path,), elements, at_end

    @property
    def has_free_sizes(self) -> bool:
        """Always: packing follows the size of x."""
        return True

    def rewrite_call(self, name: str, call: NetworkCall) -> NetworkCall:
        (path,) = self.paths
        leaf = call.leaves.get(path)
        if not isinstance(leaf, Tensor) or tuple(leaf.shape[1:]) != self.elements.target_shape:
            raise refuse_argument(name, path)
        others = {path: {prefix: self._unpack_part(part) for prefix, part in self.elements.others(leaf).items()}}
        x = self.packing.unpack(self.elements.select(leaf))
        leaves, structure = self.join_x(dict(call.leaves), call.structure, x, others)
        output = self.packing.unpack(self._cut(call.output, self.packing.tokens[0]))
        return replace(call, leaves=leaves, structure=structure, output=output)

    def forward(self, network: nn.Module, arguments: Mapping[str, Any]) -> Tensor:
        """Call a network with the arguments of a rewritten call. Returns the prediction [rows, channels, *sizes]."""
        x, others, given = self.split_x(arguments)
        (path,) = self.paths
        rest = {prefix: self._pack_part(part) for prefix, part in others[path].items()}
        tokens = self.packing.pack(x)
        returned = network(**fill(given, {path: self.elements(tokens, rest) if rest else tokens}))
        return self.packing.unpack(self._cut(only_float_tensor(returned), tokens.shape[1]), x.shape[2:])

    @property
    def _shares_tokens(self) -> bool:
        """Whether the tokens have other elements besides those of x, such as channels of an encoded picture."""
        width = self.packing.tokens[1]
        return self.elements.target_shape[1] > width and not self.elements.target_shape[1] % prod(self.packing.block)

    def _unpack_part(self, part: Tensor) -> Tensor:
        return self.packing.unpack(part) if self._shares_tokens else part

    def _pack_part(self, part: Tensor) -> Tensor:
        return self.packing.pack(part) if self._shares_tokens else part

    def _cut(self, output: Tensor, count: int) -> Tensor:
        if self.elements.target_shape[0] == self.packing.tokens[0]:
            return output
        return output[:, output.shape[1] - count :] if self.at_end else output[:, :count]


def find_packed_forms(packing: Packing, base: CallRecord, reseeded: CallRecord) -> Iterator[PackedForm]:
    """Yield the possible forms of a network, in the order in which they should be tried. The recordings differ only in
    their seed, and their schedulers step latents."""
    step, other = base.steps[0], reseeded.steps[0]
    call, second = step.calls[0], other.calls[0]
    tokens = packing.pack(torch.stack([step.sample[0], other.sample[0]]))
    for path, leaf in call.leaves.items():
        pair = [leaf, second.leaves.get(path)]
        if not all(isinstance(value, Tensor) and value.dtype == torch.float32 for value in pair):
            continue
        if pair[0].shape != pair[1].shape or pair[0].dim() != 3 or len(pair[0]) != len(call.output):
            continue
        elements = find(tokens, torch.stack([value[0] for value in pair]))
        if elements is not None and (elements.joins or elements.is_sorted):
            ends = (False, True) if elements.target_shape[0] != packing.tokens[0] else (False,)
            yield from (PackedForm(packing, path, elements, at_end) for at_end in ends)
