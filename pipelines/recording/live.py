"""Stand-ins for the networks of a pipeline that a user's function returns. The classes of these networks may be defined
by the user."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fewstep.pipelines.recording.components import (
    DENOISER_MODULES,
    LEFT_OUT,
    NOT_DENOISERS,
    BuiltPipeline,
    finish_pipeline,
    network_builder,
)
from fewstep.pipelines.recording.stand_ins import (
    OutputShapes,
    build_on_meta,
    build_small,
    copy_network,
    is_small,
    respond_randomly,
)

LIBRARIES = ("diffusers.", "transformers.")


def build_from_pipeline(pipeline: Any, label: str, seed: int = 0) -> BuiltPipeline:
    """Return a copy of a pipeline with its attributes, in which the networks are stand-ins. The seed determines what
    its encoders return.

    The given pipeline is unchanged. A network whose class is not from diffusers or transformers is taken for a
    denoiser.
    """
    built: dict[str, Any] = {}
    denoisers: dict[str, OutputShapes] = {}
    for name, component in pipeline.components.items():
        if name in LEFT_OUT or not isinstance(component, nn.Module):
            changes = hasattr(component, "set_timesteps")  # in a call
            built[name] = None if name in LEFT_OUT else copy.deepcopy(component) if changes else component
        elif _is_denoiser(component):
            built[name] = _build_on_meta(component)
            denoisers[name] = OutputShapes(name, _copier(component))
        elif is_small(component):
            built[name] = build_small(network_builder(type(component), component.config), name, seed)
        else:
            built[name] = respond_randomly(_build_on_meta(component), name, seed)
    made = copy.copy(pipeline)
    vars(made).update(built)  # setattr would also change the config
    return finish_pipeline(made, built, denoisers, label)


def _is_from_library(component: nn.Module) -> bool:
    return type(component).__module__.startswith(LIBRARIES)


def _is_denoiser(component: nn.Module) -> bool:
    is_listed = type(component).__module__.startswith(DENOISER_MODULES)
    return (is_listed or not _is_from_library(component)) and type(component).__name__ not in NOT_DENOISERS


def _copier(component: nn.Module) -> Callable[[], nn.Module]:
    return lambda: copy_network(component)


def _classes(network: nn.Module) -> list[tuple[str, type]]:
    """Return the names and classes of all modules in a network."""
    return [(name, type(module)) for name, module in network.named_modules()]


def _build_on_meta(component: nn.Module) -> nn.Module:
    """Return a network of the same class on the device "meta": from its config, or as a copy without its weights."""
    if _is_from_library(component):
        built = build_on_meta(network_builder(type(component), component.config))
        if _classes(built) == _classes(component):
            return built  # otherwise something was added to it, such as a LoRA
    known: dict[int, Any] = {}
    for tensor in (*component.parameters(), *component.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        known[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(component, known).eval()
