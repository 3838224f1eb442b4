"""Networks that answer in place of a pipeline's components while its call runs, and which of them it calls."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from fewstep.pipelines.companions.stored_network import ReadNetwork
from fewstep.pipelines.recording.components import BuiltPipeline
from fewstep.pipelines.recording.record import place
from fewstep.pipelines.recording.stand_ins import ENTRIES, copy_network

DECODE = "decode"  # a method of autoencoders


@contextmanager
def show_stored_values(built: BuiltPipeline, read: ReadNetwork) -> Iterator[None]:
    """While active, let a pipeline read the stored tensors of its autoencoders, such as the mean and variance of
    FLUX.2's latents. The stand-ins still compute the outputs."""
    shown = {
        name: copy_network(read(name, type(stand_in)).load())
        for name, stand_in in built.pipeline.components.items()
        if isinstance(stand_in, nn.Module) and hasattr(stand_in, DECODE)
    }
    with let_stand_ins_answer(built.pipeline, shown):
        yield


@contextmanager
def let_stand_ins_answer(pipeline: Any, networks: Mapping[str, nn.Module]) -> Iterator[None]:
    """While active, a pipeline has these networks as its components, and their stand-ins compute what they return."""
    with ExitStack() as stack:
        for name, network in networks.items():
            stand_in = getattr(pipeline, name)
            for entry in ("forward", *ENTRIES):
                if hasattr(stand_in, entry):
                    method = getattr(stand_in, entry)
                    stack.enter_context(patch.object(network, entry, method, create=True))
        stack.enter_context(place(pipeline, networks))
        yield


def share_tensors(network: nn.Module) -> nn.Module:
    """Return a copy of a network with the same tensors."""
    computed = [value for layer in network.modules() for value in vars(layer).values()]  # as weight_norm does
    tensors = (*network.parameters(), *network.buffers(), *computed)
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors if isinstance(tensor, Tensor)})


@contextmanager
def watch_components(built: BuiltPipeline) -> Iterator[list[str]]:
    """While active, list the components, besides denoisers, of which a method or a layer is called."""
    components = built.pipeline.components.items()
    networks = {
        name: network for name, network in components if isinstance(network, nn.Module) and name not in built.denoisers
    }
    owners = {id(layer): name for name, network in networks.items() for layer in network.modules()}
    called = list[str]()

    def noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            called.append(name)
            return method(*args, **kwargs)

        return call

    def note_layer(layer: nn.Module, _: Any) -> None:
        if id(layer) in owners:
            called.append(owners[id(layer)])

    with ExitStack() as stack:
        for name, network in networks.items():
            for entry in ("forward", *ENTRIES):
                if hasattr(network, entry):
                    method = noting(name, getattr(network, entry))
                    stack.enter_context(patch.object(network, entry, method, create=True))
        stack.callback(register_module_forward_pre_hook(note_layer).remove)
        yield called
