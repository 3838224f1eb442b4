"""Stand-ins for the networks of a pipeline that a user's function returns. The classes of these networks may be defined
by the user."""

import copy
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.pipelines.recording.call_record import NetworkCall, SchedulerStep
from fewstep.pipelines.recording.components import (
    DENOISER_MODULES,
    LEFT_OUT,
    NOT_DENOISERS,
    SECOND_MODULES,
    BuiltPipeline,
    finish_pipeline,
    network_builder,
)
from fewstep.pipelines.recording.record import record
from fewstep.pipelines.recording.settings import PLAIN, STEPS_OF_TWO, choose_settings
from fewstep.pipelines.recording.stand_ins import (
    OutputShapes,
    build_on_meta,
    build_small,
    copy_network,
    is_small,
    respond_randomly,
)
from fewstep.plans.errors import UserError

LIBRARIES = ("diffusers.", "transformers.")
ALIKE = 0.999  # cosine between x and an argument that is x
SMALLEST_NOISE = 0.02  # deviation of the noise on weights that are all equal


def build_from_pipeline(
    pipeline: Any, label: str, seed: int = 0, encoders: Collection[str] = (), dtype: torch.dtype | None = None
) -> BuiltPipeline:
    """Return a copy of a pipeline with its attributes, in which the networks are stand-ins. The seed determines what
    its encoders return.

    The given pipeline is unchanged. A network whose class is not from diffusers or transformers is taken for a
    denoiser, unless `encoders` has its name. With a `dtype`, only denoisers are stand-ins, and the other networks run
    in that type.
    """
    built: dict[str, Any] = {}
    denoisers: dict[str, OutputShapes] = {}
    for name, component in pipeline.components.items():
        if name in LEFT_OUT or not isinstance(component, nn.Module):
            changes = hasattr(component, "set_timesteps")  # in a call
            built[name] = None if name in LEFT_OUT else copy.deepcopy(component) if changes else component
        elif _is_denoiser(component) and name not in encoders:
            built[name] = _build_on_meta(component)
            denoisers[name] = OutputShapes(name, partial(copy_network, component))
        elif dtype is not None:
            built[name] = _copy_in(component, dtype)
        elif is_small(component):
            built[name] = build_small(partial(_copy_with_other_weights, component), name, seed)
        else:
            built[name] = respond_randomly(_build_on_meta(component), name, seed)
    made = copy.copy(pipeline)
    vars(made).update(built)  # setattr would also change the config
    return finish_pipeline(made, built, denoisers, label)


def find_components(pipeline: Any, label: str) -> dict[str, Any]:
    """Return the components of a pipeline. Raises UserError if its constructor does not register those that it
    takes."""
    try:
        components: dict[str, Any] = pipeline.components
    except (ValueError, AttributeError) as error:  # of diffusers
        name = type(pipeline).__name__
        what = f"{label}: the constructor of {name} takes other components than it registers"
        fix = "let self.register_modules(...) name exactly the arguments of __init__ that have no default, and"
        fix += " self.register_to_config(...) those that have one"
        raise UserError(what, fix) from error
    return components


def find_own_encoders(pipeline: Any, label: str, given: Mapping[str, Any]) -> frozenset[str]:
    """Return the networks of unknown classes that are no denoisers: those that run in the first step only, before
    another one, or not at all. `given` are arguments of the pipeline's call.

    Raises UserError for a network of the first step only that may be either: one that reads x before another one, and
    one that does not read x after another one that does.
    """
    networks = {
        name: component
        for name, component in pipeline.components.items()
        if isinstance(component, nn.Module) and name not in LEFT_OUT
    }
    own = {name for name, network in networks.items() if not is_from_library(network)}
    if not own or sum(map(_is_denoiser, networks.values())) < 2:
        return frozenset()
    built, forms = build_from_pipeline(pipeline, label), replace(PLAIN, steps=STEPS_OF_TWO)
    try:
        first, *later = record(built, choose_settings(pipeline, given, forms).of(), 0).steps
    except UserError:  # which is explained where the usual call is chosen
        return frozenset()
    repeated, last = {call.component for step in later for call in step.calls}, first.calls[-1].component
    reading = {call.component for call in first.calls if _reads_x(call, first)}
    in_doubt = (reading & own) - repeated - {last}
    if last in own - repeated and last not in reading and reading - {last}:
        in_doubt |= {last}
    if in_doubt:
        name = min(in_doubt)
        way = "reads x there, before" if name in reading else "does not read x there, after"
        what = f"{label}: its network {name} runs in the first step only, and {way} another network"
        fix = "call it before the steps if it encodes a text, or in each step if it is the denoiser"
        raise UserError(f"{what}, so that it may be an encoder or a denoiser", fix)
    return frozenset(own - repeated - {last})


def _reads_x(call: NetworkCall, step: SchedulerStep) -> bool:
    """Return whether a network gets the x of a step, which may be scaled."""
    x = step.sample[0].flatten().double()
    arrays = (leaf for leaf in call.leaves.values() if isinstance(leaf, Tensor) and leaf.is_floating_point())
    rows = (leaf[0].flatten().double() for leaf in arrays if leaf.dim() > 1 and leaf[0].numel() == x.numel())
    return any(float(torch.cosine_similarity(row, x, dim=0).abs()) > ALIKE for row in rows)


def is_from_library(component: nn.Module) -> bool:
    """Return True for a class of diffusers or transformers."""
    return type(component).__module__.startswith(LIBRARIES)


def _is_denoiser(component: nn.Module) -> bool:
    is_listed = type(component).__module__.startswith((*DENOISER_MODULES, *SECOND_MODULES))
    return (is_listed or not is_from_library(component)) and type(component).__name__ not in NOT_DENOISERS


def _copy_in(component: nn.Module, dtype: torch.dtype) -> nn.Module:
    network = copy_network(component).eval()
    return network if dtype == torch.float32 else network.to(dtype)


def _copy_with_other_weights(component: nn.Module) -> nn.Module:
    """Return a copy whose weights have noise as large as themselves."""
    network = copy_network(component)
    with torch.no_grad():
        for weight in filter(Tensor.is_floating_point, network.parameters()):
            deviation = float(weight.std()) if weight.numel() > 1 else 0.0
            weight.add_(torch.randn_like(weight), alpha=max(deviation, SMALLEST_NOISE))
    return network


def _shapes(network: nn.Module) -> list[tuple[str, type, list[torch.Size]]]:
    """Return the names, classes and shapes of all modules in a network."""
    modules = network.named_modules()
    return [
        (name, type(module), [weight.shape for weight in module.parameters(recurse=False)]) for name, module in modules
    ]


def _build_on_meta(component: nn.Module) -> nn.Module:
    """Return a network of the same class on the device "meta": from its config, or as a copy without its weights."""
    if is_from_library(component):
        built = build_on_meta(network_builder(type(component), component.config))
        if _shapes(built) == _shapes(component):
            return built  # otherwise something was added to it, such as a LoRA
    known: dict[int, Any] = {}
    for tensor in (*component.parameters(), *component.buffers()):
        empty = torch.empty_like(tensor, device="meta")
        known[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(component, known).eval()
