"""How a network gets x in its arguments: what all forms share.

A recording is rewritten as if the network had one argument x. The other elements of an argument with x, such as
channels of an encoded picture, become arguments of their own.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fewstep.pipelines.recording.call_record import CallRecord, NetworkCall
from fewstep.pipelines.recording.element_map import AFTER, AROUND, BEFORE
from fewstep.pipelines.recording.stand_ins import recording_error
from fewstep.plans.errors import UserError

X = "x of the scheduler"  # an argument of rewritten calls
PLACEHOLDER = 0.0  # of an argument with elements of x
REST = (BEFORE, AFTER, AROUND)  # prefixes of arguments of rewritten calls: the other elements of one with x

Leaves = dict[str, Any]
Rest = dict[str, dict[str, Tensor]]  # the other elements by the path of their argument, then by prefix


class XForm(nn.Module):
    """Where x is in the arguments of a network, which are at `paths`, and in its outputs. `forward(network, arguments)`
    calls a network with the arguments of a rewritten call."""

    paths: tuple[str, ...]

    @property
    @abstractmethod
    def has_free_sizes(self) -> bool:
        """Whether `forward` takes x of other sizes."""

    @abstractmethod
    def rewrite_call(self, name: str, call: NetworkCall) -> NetworkCall:
        """Return a call as one with a single argument x. Raises UserError if it cannot be rewritten in this way."""

    def rewrite(self, name: str, record: CallRecord) -> CallRecord:
        """Return the recording as that of a network with a single argument x. Raises UserError if a call cannot be
        rewritten in this way."""
        steps = (
            replace(step, calls=tuple(self.rewrite_call(name, call) for call in step.calls), joined=1)
            for step in record.steps
        )
        return replace(record, steps=tuple(steps))

    def join_x(
        self, leaves: Leaves, structure: pytree.TreeSpec, x: Tensor, others: Mapping[str, Mapping[str, Tensor]]
    ) -> tuple[Leaves, pytree.TreeSpec]:
        """Return the arguments of a rewritten call by path, with their structure, from those of a call."""
        placed = {**leaves, **dict.fromkeys(self.paths, PLACEHOLDER)}
        arguments: dict[str, Any] = pytree.tree_unflatten(list(placed.values()), structure)
        named = {prefix + path: part for path, parts in others.items() for prefix, part in parts.items()}
        return flatten({**arguments, **named, X: x})

    def split_x(self, arguments: Mapping[str, Any]) -> tuple[Tensor, Rest, dict[str, Any]]:
        """Return x, the other elements, and the arguments of a call without these, from those of a rewritten call."""
        given = dict(arguments)
        x: Tensor = given.pop(X)
        rest = {
            path: {prefix: given.pop(prefix + path) for prefix in REST if prefix + path in given} for path in self.paths
        }
        return x, rest, given


def refuse_argument(name: str, path: str) -> UserError:
    """Return the error for an argument that contains x in some calls only, or in another shape."""
    return recording_error(f"{name} passes {path} to its network with a different type or shape in some calls")


def fill(arguments: dict[str, Any], values: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return nested arguments with other values at some paths."""
    leaves, structure = flatten(arguments)
    filled: dict[str, Any] = pytree.tree_unflatten(list({**leaves, **values}.values()), structure)
    return filled


def flatten(arguments: dict[str, Any]) -> tuple[Leaves, pytree.TreeSpec]:
    """Return nested arguments by path, and their structure."""
    flat, structure = pytree.tree_flatten_with_path(arguments)
    return {pytree.keystr(path): leaf for path, leaf in flat}, structure
