"""Stand-ins for the networks of a pipeline: they have the class and the config of a network, and return random tensors.

A stand-in has no weights. It learns the shapes of its outputs from a run on the device "meta", which computes nothing.
Networks that read the values of their inputs cannot run there; a small one then runs on the CPU, with random weights.
"""

import copy
import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any
from unittest.mock import patch
from zlib import crc32

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fewstep.export.tracing.weights.stored_halves import count_weights
from fewstep.pipelines.recording.network_state import Watch
from fewstep.plans.errors import UserError, one_line

AUTOENCODERS = "diffusers.models.autoencoders."
SMALL = 64 * 10**6  # weights of a network that may run on the CPU during a recording
UNRECORDED = "write a function that returns (module, Spec): docs/export/diffusers.md, A network without its pipeline"


class LengthError(UserError):
    """A network reads the number of tokens of a text, so that padded texts do not have the same samples."""

    def __init__(self, what: str) -> None:
        super().__init__(what, UNRECORDED)


def recording_error(what: str) -> UserError:
    """Return the error for a pipeline whose call cannot be reproduced from its recording."""
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


def copy_network(network: nn.Module) -> nn.Module:
    """Return a copy on the CPU in float32."""
    return copy_module(network).cpu().float()


def copy_module(network: nn.Module) -> nn.Module:
    """Return a copy. Tensors that a module computes from its weights, as `weight_norm` does, are copied by value."""
    computed = (
        tensor
        for module in network.modules()
        for tensor in vars(module).values()
        if isinstance(tensor, torch.Tensor) and not tensor.is_leaf
    )
    return copy.deepcopy(network, {id(tensor): tensor.detach().clone() for tensor in computed})


def is_small(module: nn.Module) -> bool:
    """Return True if a network may run on the CPU during a recording."""
    return count_weights(module) <= SMALL


@dataclass
class OutputShapes:
    """Returns the outputs of a network without values, for arguments of any shape. Runs it once for each combination
    of shapes. `watches` are those of the stand-in and of its copy in the last recording. `embeddings` are the sizes of
    the tables in which the network looks up arguments that are integers, by their path."""

    name: str
    build: Callable[[], nn.Module]
    known: dict[str, Any] = field(default_factory=dict)
    watches: list[Watch] = field(default_factory=list)
    embeddings: dict[str, int] = field(default_factory=dict)

    def infer(self, module: nn.Module, arguments: dict[str, Any]) -> Any:
        """Return outputs of a network on the device "meta", which have shapes and no values. Raises UserError for a
        large network whose output shapes depend on values."""
        key = repr(pytree.tree_map(_describe, arguments))
        if key not in self.known:
            self.known[key] = self._run(module, arguments)
            for watch in self.watches:
                if watch.network is module:
                    watch.accept()
        return self.known[key]

    def _run(self, module: nn.Module, arguments: dict[str, Any]) -> Any:
        forward = type(module).forward
        with torch.no_grad(), _masks_without_values():
            try:
                with state_device(module, "meta"):
                    return self._forward(partial(forward, module), pytree.tree_map(_to_meta, arguments))
            except Exception as error:
                if not is_small(module):
                    what = f"{self.name} ({type(module).__name__}) reads the values of its inputs: {one_line(error)}"
                    raise recording_error(what) from error
            return pytree.tree_map(_to_meta, self._forward(partial(forward, build_on_cpu(self.build)), arguments))

    def _forward(self, forward: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Return what a network returns, and keep the sizes of the tables in which it looks up its arguments."""
        look_up, flat = nn.Embedding.forward, pytree.tree_flatten_with_path(arguments)[0]

        def watch(table: nn.Embedding, numbers: torch.Tensor) -> torch.Tensor:
            self.embeddings.update({pytree.keystr(path): table.num_embeddings for path, own in flat if own is numbers})
            return look_up(table, numbers)

        with patch.object(nn.Embedding, "forward", watch):
            return forward(**arguments)


@contextmanager
def state_device(network: nn.Module, device: str) -> Iterator[None]:
    """While active, let networks of a class state a device, if the class has such a property: a pipeline puts its
    tensors on the device that a network states, and the parameters of a stand-in are on the device "meta"."""
    if not isinstance(getattr(type(network), "device", None), property):
        yield
        return
    with patch.object(type(network), "device", property(lambda self: torch.device(device))):
        yield


@contextmanager
def _masks_without_values() -> Iterator[None]:
    """While active, let transformers build attention masks without reading the values of padding masks, as it does when
    a model is traced."""
    try:
        from transformers import masking_utils
    except ImportError:
        yield
        return
    with patch.object(masking_utils, "is_tracing", lambda tensor=None: True):
        yield


REMEMBERED = 8
ENTRIES = (  # methods of encoders besides `forward`
    *("encode", "decode", "get_text_features", "get_image_features"),
    "post_process_latents",
)


def respond_randomly(network: nn.Module, name: str, seed: int) -> nn.Module:
    """Let a network on the device "meta" return random tensors that are functions of its inputs and of a seed.

    Each of its modules that receives tensors with values does the same, since pipelines also call parts of their
    encoders.
    """
    network.__class__ = _on_cpu(type(network))
    for path, module in network.named_modules():
        for entry in ("forward", *ENTRIES) if module is network else ("forward",):
            original = getattr(type(module), entry, None)
            if inspect.isfunction(original) and original is not nn.Module.forward:
                setattr(module, entry, _respond(module, original, f"{name} {path} {entry} {seed}"))
    return network


def build_small(build: Callable[[], nn.Module], name: str, seed: int) -> nn.Module:
    """Build a small encoder on the CPU, with random weights. Its outputs are computed. Those of an autoencoder, which
    takes seconds for a large image, are random tensors instead, as for large encoders. Networks of other names have
    other weights: conditions show by their values which of two encoders they come from."""
    network = build_on_cpu(build, crc32(f"{name} {seed}".encode()))
    if not type(network).__module__.startswith(AUTOENCODERS):
        return remember_outputs(network)
    on_meta = build_on_meta(build)
    for entry in ("forward", *ENTRIES):
        original = getattr(type(on_meta), entry, None)
        if inspect.isfunction(original):
            random = _respond(on_meta, original, f"{name} {entry} {seed}")
            setattr(network, entry, _prefer(random, getattr(network, entry)))
    return network


def _prefer(random: Callable[..., Any], computed: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that returns random outputs, or computed ones if the network reads the values of its inputs."""

    @wraps(computed)
    def respond(*args: Any, **kwargs: Any) -> Any:
        try:
            return random(*args, **kwargs)
        except UserError:
            return computed(*args, **kwargs)

    return respond


def remember_outputs(network: nn.Module) -> nn.Module:
    """Let a network on the CPU compute its outputs once for the same inputs: recordings differ in one setting, and an
    encoder of large images takes seconds. The last `REMEMBERED` outputs of each method are kept."""
    for entry in ("forward", *ENTRIES):
        original = getattr(network, entry, None)
        if callable(original):
            setattr(network, entry, _remember(network, original))
    return network


def _remember(network: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[tuple[object, ...], Any] = {}

    @wraps(original)
    def remember(*args: Any, **kwargs: Any) -> Any:
        if not _is_plain((args, kwargs)) or _has_hooks(network):  # such as a cache of keys and values, which changes
            return original(*args, **kwargs)
        leaves, structure = pytree.tree_flatten((args, kwargs))
        key = (seed_of("", leaves), str(structure), *map(_describe, leaves))
        if key not in known:
            while len(known) >= REMEMBERED:
                known.pop(next(iter(known)))
            known[key] = original(*args, **kwargs)
        return copy.deepcopy(known[key])  # pipelines may change what they get

    return remember


def _has_hooks(network: nn.Module) -> bool:
    """Return True if a call of the network calls functions of the pipeline, which may read its layers."""
    return any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.modules())


def _is_plain(value: Any) -> bool:
    """Return True for tensors, numbers, texts and None, and for lists and dicts of them."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, torch.Tensor | int | float | str | torch.dtype | torch.device)


def _on_cpu(made: type) -> type:
    """Return a subclass of a network class whose `device` is always the CPU, so that a pipeline puts the inputs there.
    (The parameters are on the device "meta".)"""
    if not hasattr(made, "device"):
        return made
    return type(made.__name__, (made,), {"device": torch.device("cpu"), "__module__": made.__module__})


def _respond(module: nn.Module, original: Callable[..., Any], name: str) -> Callable[..., Any]:
    signature = inspect.signature(original)

    def respond(*args: Any, **kwargs: Any) -> Any:
        tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if not tensors or any(tensor.is_meta for tensor in tensors):
            return original(module, *args, **kwargs)
        with torch.no_grad(), _masks_without_values():
            try:
                outputs = original(module, *pytree.tree_map(_to_meta, args), **pytree.tree_map(_to_meta, kwargs))
            except Exception as error:
                if (returned := _run_parts(module, original, args, kwargs)) is not None:
                    return returned
                what = f"{name.split()[0]} ({type(module).__name__}) reads the values of its inputs: {one_line(error)}"
                raise recording_error(what) from error
        return randomize(outputs, torch.Generator().manual_seed(seed_of(name, (args, kwargs))))

    setattr(respond, "__signature__", signature)  # noqa: B010 - pipelines ask which arguments it takes
    return respond


def _run_parts(module: nn.Module, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Return what the code of a network on the device "meta" makes of the responses of its parts, as where a text
    encoder looks for the places of a picture; None if it also needs weights of its own."""
    try:
        returned = original(module, *args, **kwargs)
    except Exception:
        return None
    leaves = pytree.tree_leaves(returned)
    return None if any(isinstance(leaf, torch.Tensor) and leaf.is_meta for leaf in leaves) else returned


def randomize(outputs: Any, generator: torch.Generator) -> Any:
    """Return outputs of the same structure with normal random values; integers and truth values become 0 or 1. A
    distribution of an autoencoder gets random parameters."""

    def draw(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            parameters = getattr(leaf, "parameters", None)
            return type(leaf)(draw(parameters)) if isinstance(parameters, torch.Tensor) else leaf
        if leaf.is_floating_point():
            return torch.randn(leaf.shape, generator=generator)
        return torch.randint(0, 2, leaf.shape, generator=generator).to(leaf.dtype)

    return pytree.tree_map(draw, outputs)


def seed_of(name: str, arguments: Any) -> int:
    """Return a seed that is a function of a network's name and of the values of its arguments."""
    digest = hashlib.sha256(name.encode())
    for leaf in pytree.tree_leaves(arguments):
        is_tensor = isinstance(leaf, torch.Tensor)
        plain = type(leaf) if isinstance(leaf, torch.Generator) else leaf  # whose repr has its address
        digest.update(leaf.detach().double().numpy().tobytes() if is_tensor else repr(plain).encode())
    return int.from_bytes(digest.digest()[:7], "big")


def _describe(leaf: Any) -> Any:
    return (tuple(leaf.shape), str(leaf.dtype)) if isinstance(leaf, torch.Tensor) else leaf


def _to_meta(leaf: Any) -> Any:
    return leaf.to("meta") if isinstance(leaf, torch.Tensor) else leaf
