"""The layout of x in a pipeline: how its scheduler steps latents, and how its network receives them."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from fewstep.pipelines.companions.answering_networks import DECODE, show_stored_values
from fewstep.pipelines.companions.picture_encoder import find_latents
from fewstep.pipelines.companions.stored_network import ReadNetwork
from fewstep.pipelines.recording.call_record import CallRecord
from fewstep.pipelines.recording.components import BuiltPipeline
from fewstep.pipelines.recording.element_map import ElementMap
from fewstep.pipelines.recording.ending import TENSORS, ask_for, find_ending
from fewstep.pipelines.recording.form import XForm
from fewstep.pipelines.recording.network_form import NetworkForm, find_forms
from fewstep.pipelines.recording.packed_form import find_packed_forms
from fewstep.pipelines.recording.packing import Packing, find_packing
from fewstep.pipelines.recording.record import finish_call, record
from fewstep.pipelines.recording.settings import CallSettings
from fewstep.pipelines.relations.networks import find_parts
from fewstep.pipelines.relations.relations import gets_x
from fewstep.plans.errors import UserError

LOG = logging.getLogger("fewstep")


def find_layout(read: ReadNetwork, built: BuiltPipeline, settings: CallSettings, first: CallRecord) -> BuiltPipeline:
    """Return the pipeline with the packing of its latents and the form of its network, or None for each that it has
    not. `first` is the recording of its usual call, and `read` loads its autoencoder. A packing is left out if no form
    of the network explains the steps with it."""
    packing = _find_packing(built, settings, first, read)
    if packing is not None:
        packed = replace(built, packing=packing)
        try:
            packed = find_form(packed, packing.unpack_record(first), record(packed, settings.of(), 1))
        except UserError as error:
            LOG.info("%s: x is its tokens, since latents do not explain its steps: %s", built.name, error.what)
            packed = built
        if packed.form is not None:
            return packed
    return built if gets_x(first) else find_form(built, first, record(built, settings.of(), 1))


def _find_packing(built: BuiltPipeline, settings: CallSettings, first: CallRecord, read: ReadNetwork) -> Packing | None:
    """Return how a pipeline packs latents into the tokens that its scheduler steps, by what it passes to its
    autoencoder. None if it steps something else, or decodes with no autoencoder or with several."""
    sample = first.steps[0].sample
    autoencoders = [
        name
        for name, component in built.pipeline.components.items()
        if isinstance(component, nn.Module) and hasattr(component, DECODE)
    ]
    if sample.dim() != 3 or first.steps[0].joined > 1 or len(autoencoders) != 1:
        return None
    usual = ask_for(TENSORS, settings.of_one_sample())
    ending = find_ending(first, first.steps[-1].result)

    def finish(x: torch.Tensor) -> Any:
        return finish_call(built, usual, replace(ending, x=x))

    def find() -> ElementMap | None:
        return find_latents(getattr(built.pipeline, autoencoders[0]), finish, tuple(sample.shape[1:]))

    try:
        latents = find()
        if latents is None:  # the call may read stored values, such as the mean of FLUX.2's latents
            with show_stored_values(built, read):
                latents = find()
    except UserError:
        return None
    return None if latents is None else find_packing(latents)


def find_form(built: BuiltPipeline, base: CallRecord, reseeded: CallRecord) -> BuiltPipeline:
    """Return the pipeline with the form that describes in which layout its network receives x; unchanged if no argument
    of the network contains x. The recordings differ only in their seed. Raises UserError if no layout explains its
    steps."""
    if not base.steps[0].calls or not reseeded.steps[0].calls:
        return built
    error: UserError | None = None
    forms: Iterator[XForm] = find_forms(built.name, base, reseeded)
    if built.packing is not None:
        forms = find_packed_forms(built.packing, base, reseeded)
    for form in forms:
        if isinstance(form, NetworkForm) and form.output is None:  # the output is found with its combination
            return replace(built, form=form)
        try:
            find_parts(built.name, *(form.rewrite(built.name, recording) for recording in (base, reseeded)))
        except UserError as own:
            error = error or own
        else:
            return replace(built, form=form)
    if error is not None:
        raise error
    return built
