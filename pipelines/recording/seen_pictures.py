"""What a text encoder that also sees a picture does with it: in the embeddings of its token ids, it replaces those of
one id by features of the picture. The part of it that gets the result is recorded in its place."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fewstep.pipelines.recording.call_record import bind_arguments


@dataclass(frozen=True)
class SeenPicture:
    """How a part of a network gets features of a picture: in its argument `argument`, [1, ids, width]. `embedding` is
    the path of the module that embeds ids, and `features` [N, width] are the rows in the places of the id `token`."""

    argument: str
    embedding: str
    token: int
    features: Tensor


@dataclass
class PartRun:
    """A call of a network, or of the part of it that gets features of a picture. `entry`: the path of its method.
    `arguments`: those of the call, by name. `takes`: the names of all that it takes."""

    entry: str
    arguments: Mapping[str, Any]
    takes: frozenset[str]
    picture: SeenPicture | None = None
    returned: Any = None

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The arguments that are tensors."""
        return {name: value for name, value in self.arguments.items() if isinstance(value, Tensor)}


def copy_tensors(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments with copies of their tensors, which a call may change."""
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in arguments.items()}


@dataclass
class _Watch:
    ids: Tensor
    embeddings: dict[str, Tensor] = field(default_factory=dict)
    runs: dict[int, PartRun] = field(default_factory=dict)  # by the identity of the module; the first is outermost

    def before(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        leaves = pytree.tree_leaves((args, kwargs))
        if self.runs or not any(self._find_picture("", leaf) for leaf in leaves):
            return
        signature = inspect.signature(type(module).forward)
        arguments = bind_arguments(signature, args, kwargs)
        pictures = (self._find_picture(name, value) for name, value in arguments.items())
        if (picture := next(filter(None, pictures), None)) is not None:
            takes = frozenset(signature.parameters)
            self.runs[id(module)] = PartRun(f"{path}.forward", copy_tensors(arguments), takes, picture)

    def after(self, path: str, module: nn.Module, args: Any, kwargs: Any, returned: Any) -> None:
        if id(module) in self.runs:
            self.runs[id(module)].returned = returned
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if len(tensors) == 1 and _is_equal(tensors[0], self.ids) and isinstance(returned, Tensor):
            self.embeddings[path] = returned.clone()

    def _find_picture(self, name: str, value: Any) -> SeenPicture | None:
        """Return how a value follows from the embeddings of the ids and from a picture; None if it does not."""
        if not isinstance(value, Tensor) or value.is_meta:
            return None
        for path, embedded in self.embeddings.items():
            if value.shape == embedded.shape and value.dtype == embedded.dtype and not torch.equal(value, embedded):
                changed = (value != embedded).any(dim=-1)[0]
                tokens = self.ids[0][changed].unique()
                if len(tokens) == 1 and torch.equal(self.ids[0] == tokens[0], changed):
                    return SeenPicture(name, path, int(tokens[0]), value[0][changed].clone())
        return None


@contextmanager
def watch_parts(network: nn.Module, ids: Tensor) -> Iterator[dict[int, PartRun]]:
    """While active, watch the modules of a network that runs with token ids [1, length]. Yields the call of the part
    that gets features of a picture; empty without one."""
    watch = _Watch(ids)
    with ExitStack() as hooks:
        for path, module in network.named_modules():
            if module is network:
                continue
            before = module.register_forward_pre_hook(_bind(watch.before, path), with_kwargs=True)
            after = module.register_forward_hook(_bind(watch.after, path), with_kwargs=True)
            hooks.callback(before.remove)
            hooks.callback(after.remove)
        yield watch.runs


def _bind(watch: Any, path: str) -> Any:
    """Return a hook that passes the path of its module on."""
    return lambda module, *others: watch(path, module, *others)


def _is_equal(value: Tensor, other: Tensor) -> bool:
    return not value.is_meta and value.dtype == other.dtype and torch.equal(value, other)
