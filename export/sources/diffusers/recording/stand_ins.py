"""Stand-ins for the networks of a pipeline: they have the class and the config of a network, and return random tensors.

A stand-in has no weights. It learns the shapes of its outputs from a run on the device "meta", which computes nothing.
Networks that read the values of their inputs cannot run there; a small one then runs on the CPU, with random weights.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fewstep.plans.errors import UserError

SMALL = 64 * 10**6  # parameters of a network that may run on the CPU during a recording
UNRECORDED = "write a function that returns (module, Spec): docs/export/diffusers.md, A class that is not in the table"


def recording_error(what: str) -> UserError:
    """Return the error for a pipeline that a recording does not explain."""
    return UserError(what, UNRECORDED)


def build_on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network on the device "meta": its parameters have shapes and no values."""
    with torch.device("meta"):
        module = build()
    return module.to("meta").eval().requires_grad_(False)


def build_on_cpu(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Build a network with random weights that follow from the seed. The caller's random state is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval().requires_grad_(False)


def is_small(module: nn.Module) -> bool:
    """Return True if a network may run on the CPU during a recording."""
    return sum(parameter.numel() for parameter in module.parameters()) <= SMALL


@dataclass
class OutputShapes:
    """Returns the outputs of a network without values, for arguments of any shape. Runs it once for each combination
    of shapes."""

    name: str
    build: Callable[[], nn.Module]
    known: dict[str, Any] = field(default_factory=dict)

    def infer(self, module: nn.Module, arguments: dict[str, Any]) -> Any:
        """Return the outputs on the device "meta". Raises UserError if the network reads values and is large."""
        key = repr(pytree.tree_map(_describe, arguments))
        if key not in self.known:
            self.known[key] = self._run(module, arguments)
        return self.known[key]

    def _run(self, module: nn.Module, arguments: dict[str, Any]) -> Any:
        forward = type(module).forward
        with torch.no_grad():
            try:
                return forward(module, **pytree.tree_map(_to_meta, arguments))
            except Exception as error:
                if not is_small(module):
                    what = f"{self.name} ({type(module).__name__}) reads the values of its inputs: {_line(error)}"
                    raise recording_error(what) from error
            return pytree.tree_map(_to_meta, forward(build_on_cpu(self.build), **arguments))


def randomize(outputs: Any, generator: torch.Generator) -> Any:
    """Return outputs of the same structure with normal random values; integers and truth values become 0 or 1."""

    def draw(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if leaf.is_floating_point():
            return torch.randn(leaf.shape, generator=generator)
        return torch.randint(0, 2, leaf.shape, generator=generator).to(leaf.dtype)

    return pytree.tree_map(draw, outputs)


def seed_of(name: str, arguments: Any) -> int:
    """Return a seed that is a function of a network's name and of the values of its arguments."""
    digest = hashlib.sha256(name.encode())
    for leaf in pytree.tree_leaves(arguments):
        digest.update(leaf.contiguous().numpy().tobytes() if isinstance(leaf, torch.Tensor) else repr(leaf).encode())
    return int.from_bytes(digest.digest()[:7], "big")


def _describe(leaf: Any) -> Any:
    return (tuple(leaf.shape), str(leaf.dtype)) if isinstance(leaf, torch.Tensor) else leaf


def _to_meta(leaf: Any) -> Any:
    return leaf.to("meta") if isinstance(leaf, torch.Tensor) else leaf


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
