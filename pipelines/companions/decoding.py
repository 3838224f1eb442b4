"""How a recorded pipeline turns the final x into pictures, a video or sound: by the code of its own call.

Nothing is listed for each pipeline. The part of the call after the last step is traced as a function of x: its
autoencoders and vocoders, frame by frame or in chunks if the pipeline does so, and all arithmetic around them.
"""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fewstep.export.companions.autoencoder import AutoencoderSource
from fewstep.export.companions.companion import Companion
from fewstep.export.companions.networks import PipelineNetworks
from fewstep.export.tracing.weights.stored_halves import to_float32
from fewstep.pipelines.companions.answering_networks import (
    DECODE,
    let_stand_ins_answer,
    share_tensors,
    show_stored_values,
    watch_components,
)
from fewstep.pipelines.companions.autoencoder import IMAGE, LATENT, random_latents
from fewstep.pipelines.companions.partial_trace import TraceOfValues, pause_trace
from fewstep.pipelines.companions.picture_encoder import RecordedEncoder, find_latents, make_encoder
from fewstep.pipelines.companions.recorded_conditions import read_conditions
from fewstep.pipelines.companions.stored_network import ReadNetwork
from fewstep.pipelines.recorded_pipeline import RecordedPipeline
from fewstep.pipelines.recording.call_record import CallRecord
from fewstep.pipelines.recording.call_sizes import find_call_sizes
from fewstep.pipelines.recording.components import BuiltPipeline
from fewstep.pipelines.recording.element_map import ElementMap, is_close
from fewstep.pipelines.recording.ending import ARRAYS, TENSORS, Ending, ask_for, find_ending
from fewstep.pipelines.recording.live import is_from_library
from fewstep.pipelines.recording.pictures import MASKS
from fewstep.pipelines.recording.record import finish_call, place, record
from fewstep.pipelines.recording.settings import OTHER, OUTPUT, PICTURE, PROMPT, CallSettings
from fewstep.pipelines.recording.stand_ins import copy_network
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND
from fewstep.runtime.bundle.manifest import Role, TensorEntry

ROLES: Mapping[int, Role] = {2: "sound", 3: "sound", 4: "image", 5: "video"}  # by the number of axes
COLORS = (1, 3)
CHANNELS = 8  # most of a sound
FRAME_RATES = ("frame_rate", "fps")  # arguments of calls
SAMPLE_RATES = ("output_sampling_rate", "sampling_rate", "sample_rate")  # fields of autoencoders and vocoders
NONE = "its call decodes nothing after the last step"
OUT_OF_RANGE = (
    "its call returns pictures that are not in [0, 1]; let it end with"
    " self.image_processor.postprocess(picture, output_type=output_type), which clips them"
)
NO_OUTPUT = "%s: its output is left out, so that the bundle returns x: %s"

LOG = logging.getLogger("fewstep")


@dataclass(frozen=True)
class RecordedDecoding:
    """The part of a pipeline's call after its last step.

    settings: the arguments of the call. x_shape: the shape of a sample. ending: where the last step is in the call.
    components: the networks that it runs. outputs: the tensors that it returns, of one sample. frame_rate, sample_rate:
    those of a video and of a sound, per second; None if unknown. is_raw: its pictures are in [-1, 1], and are not cut
    off there, instead of in [0, 1]. conditions: those [*shape] of the network in the call that the output depends on
    too, such as a first frame, by name.
    """

    built: BuiltPipeline
    settings: Mapping[str, Any]
    x_shape: tuple[int, ...]
    ending: Ending
    components: tuple[str, ...]
    outputs: tuple[TensorEntry, ...]
    frame_rate: float | None
    sample_rate: int | None
    is_raw: bool = False
    conditions: Mapping[str, Tensor] = field(default_factory=dict)

    def finish(
        self, x: Tensor, begin: Callable[[], object] = lambda: None, seed: int = 0, **changes: Any
    ) -> tuple[Tensor, ...]:
        """Return what the call returns for a final x [1, *x_shape]. `changes` are other arguments."""
        settings, ending = {**self.settings, **changes}, replace(self.ending, x=x, begin=begin, aside=pause_trace)
        return read_tensors(finish_call(self.built, settings, ending, seed), OUTPUT in settings)

    def finish_with(
        self, x: Tensor, conditions: Mapping[str, Tensor], begin: Callable[[], object] = lambda: None
    ) -> tuple[tuple[Tensor, ...], set[str]]:
        """Return what the call returns for a final x and for other conditions [*shape] after its last step, which may
        be traced, with the names of the conditions that occur there."""
        replaced = {name: (self.conditions[name], value) for name, value in conditions.items()}
        with TraceOfValues(replaced) as trace, ExitStack() as steps:
            steps.enter_context(pause_trace())

            def start() -> None:
                """Trace from here on: the last step is over. Until then stand-ins ran."""
                steps.close()
                begin()

            return self.finish(x, start), trace.used

    def at(self, x_shape: tuple[int, ...]) -> "RecordedDecoding":
        """Return it for x of another shape, by a call with other sizes. Raises UserError if the call takes none."""
        lengths = {axis: [size] for axis, size in enumerate(x_shape) if size != self.x_shape[axis]}
        if not lengths:
            return self
        sizes = find_call_sizes(self.built, self.settings, self.x_shape, lengths)
        resized = replace(self, settings={**self.settings, **sizes.settings(x_shape)}, x_shape=x_shape)
        x = torch.from_numpy(random_latents(1, x_shape))
        return replace(resized, outputs=_describe(resized.finish(x), self.is_raw))


class RecordedDecoder(nn.Module):
    """Converts x to pictures or a video in [-1, 1], and to sound, by the code of a pipeline after its last step."""

    def __init__(self, decoding: RecordedDecoding, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.decoding, self.networks = decoding, to_float32(nn.ModuleDict(networks))
        # a trace replaces the tensors of `networks`, and code before it reads their values
        self.shown = dict(zip(networks, map(share_tensors, networks.values()), strict=True))
        self.resized = dict[tuple[int, ...], RecordedDecoding]()

    def _find_decoding(self, x: Tensor) -> RecordedDecoding:
        """Return the call for the size of x. A trace of free sizes is of the usual call."""
        shape = tuple(x.shape[1:])
        if not all(type(size) is int for size in shape):
            return self.decoding
        if shape not in self.resized:
            self.resized[shape] = self.decoding.at(shape)
        return self.resized[shape]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        latent, *conditions = inputs
        decoding = self._find_decoding(latent)
        pipeline, networks = decoding.built.pipeline, dict(self.networks.items())
        values = {name: value[0] for name, value in zip(decoding.conditions, conditions, strict=True)}
        with ExitStack() as stack, ExitStack() as steps:
            steps.enter_context(let_stand_ins_answer(pipeline, self.shown))

            def begin() -> None:
                steps.close()
                stack.enter_context(place(pipeline, networks))

            tensors, _ = decoding.finish_with(latent, values, begin)
            return tuple(to_model_range(tensor, decoding.is_raw) for tensor in tensors)


def to_model_range(tensor: Tensor, is_raw: bool = False) -> Tensor:
    """Return a sound as [1, channels, samples], and pictures from [0, 1] in [-1, 1]. `is_raw` pictures are already."""
    if ROLES[tensor.dim()] == "sound":
        return tensor if tensor.dim() == 3 else tensor[:, None]
    return tensor.clamp(-1, 1) if is_raw else 2 * tensor - 1


class _CannotDecodeError(Exception):
    """The pipeline converts x to its output in a way that is not supported."""


def read_companions(label: str, recorded: RecordedPipeline, read: ReadNetwork) -> PipelineNetworks | None:
    """Return the decoder of a recorded pipeline, with the encoder of its pictures. Returns None if it has none, or,
    with a warning, if it cannot be used."""
    decoding = find_decoding(recorded, read)
    if isinstance(decoding, RecordedDecoding):
        return PipelineNetworks(None, _make_autoencoder(decoding, read), zeros_for_none=False)
    if decoding != NONE:
        LOG.warning(NO_OUTPUT, label, decoding)
    return None


def find_decoding(recorded: RecordedPipeline, read: ReadNetwork) -> RecordedDecoding | str:
    """Return the part of a pipeline's call after its last step, or, as text, why it has none that can be used.

    If it also depends on other arguments, the call of a pipeline that keeps a part of x is tried with a mask that keeps
    none: the final x already has the kept part.
    """
    settings = recorded.settings
    decoding = _find_decoding(recorded, settings, settings.of_one_sample(), read)
    given = {name: mask for name, mask in settings.usual.items() if name in MASKS and mask is not None}
    if isinstance(decoding, RecordedDecoding) or not given or not recorded.holds:
        return decoding
    try:
        masks = {name: _widen(mask) for name, mask in given.items()}
    except _CannotDecodeError as error:
        return str(error)
    pictures = {**settings.variants.get(PICTURE, {}), **masks}
    changed = replace(settings, variants={**settings.variants, PICTURE: pictures})
    other = _find_decoding(recorded, changed, {**settings.of_one_sample(), **masks}, read)
    return other if isinstance(other, RecordedDecoding) else decoding


def _widen(mask: Any) -> Any:
    """Return a mask of the same size that keeps nothing, or a list of them."""
    if isinstance(mask, list | tuple):
        return [_widen(one) for one in mask]
    if isinstance(mask, Image.Image):
        return Image.new("L", mask.size, 255)
    if not isinstance(mask, Tensor):
        raise _CannotDecodeError(f"its mask is of type {type(mask).__name__}, not a picture or a tensor")
    return torch.ones_like(mask)


def _find_decoding(
    recorded: RecordedPipeline, settings: CallSettings, usual: Mapping[str, Any], read: ReadNetwork
) -> RecordedDecoding | str:
    built, x_shape = recorded.built, recorded.x_shape
    networks = {name: part for name, part in built.pipeline.components.items() if isinstance(part, nn.Module)}
    own = {name for name, network in networks.items() if not is_from_library(network)} - built.denoisers.keys()
    if not own and not any(hasattr(network, DECODE) for network in networks.values()):
        return NONE
    usual = ask_for(TENSORS, usual)
    try:
        with show_stored_values(built, read):
            run = record(built, usual, 0)
            x = torch.randn(1, *x_shape, generator=torch.Generator().manual_seed(0))
            ending = find_ending(run, x)
            with watch_components(built) as called:
                returned = finish_call(built, usual, replace(ending, begin=called.clear))
            if not (decoders := tuple(dict.fromkeys(called))):
                return NONE
            tensors = read_tensors(returned, OUTPUT in usual)
            is_raw = _is_raw(built, usual, ending, tensors)
            outputs = _describe(tensors, is_raw)
            rates = _find_frame_rate(built, usual), _find_sample_rate(built, decoders)
            decoding = RecordedDecoding(built, usual, x_shape, ending, decoders, outputs, *rates, is_raw)
            decoding = _find_conditions(recorded, decoding, settings, x, run)
    except _CannotDecodeError as error:
        return str(error)
    except UserError as error:
        return error.what
    return decoding


def read_tensors(returned: Any, takes_type: bool = True) -> tuple[Tensor, ...]:
    """Return the tensors that a call returned. `takes_type`: it takes the type of its output."""
    leaves = pytree.tree_leaves(returned)
    tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
    if not tensors or len(tensors) < sum(leaf is not None for leaf in leaves):
        kinds = ", ".join(dict.fromkeys(type(leaf).__name__ for leaf in leaves)) or "nothing"
        call = f"with {OUTPUT}={TENSORS} its call" if takes_type else f"its call takes no {OUTPUT}, and"
        raise _CannotDecodeError(f"{call} returns {kinds}, not tensors")
    return tensors


def _is_raw(built: BuiltPipeline, settings: Mapping[str, Any], ending: Ending, tensors: Sequence[Tensor]) -> bool:
    """Return True if a call returns pictures in [-1, 1] as tensors, and cuts them off there as arrays in [0, 1]."""
    (tensor, *others) = tensors
    if others or tensor.dim() != 4 or _is_picture(tensor) or OUTPUT not in settings:
        return False
    try:
        arrays = pytree.tree_leaves(finish_call(built, {**settings, OUTPUT: ARRAYS}, ending))
    except UserError:  # a pipeline may return no arrays
        return False
    expected = (tensor / 2 + 0.5).clamp(0, 1).movedim(1, -1).numpy()
    (own,) = arrays if len(arrays) == 1 else (None,)
    return isinstance(own, np.ndarray) and own.shape == expected.shape and np.allclose(own, expected, atol=1e-5)


def _is_picture(tensor: Tensor) -> bool:
    return 0 <= float(tensor.min()) <= float(tensor.max()) <= 1


def _describe(tensors: Sequence[Tensor], is_raw: bool) -> tuple[TensorEntry, ...]:
    """Return the entries of what a call returned for one sample: pictures or a video, and sound."""
    entries = list[TensorEntry]()
    for tensor in tensors:
        role, shape = ROLES.get(tensor.dim()), tuple(to_model_range(tensor).shape) if tensor.dim() in ROLES else ()
        is_sound = role == "sound"
        fits = shape[1] <= CHANNELS if is_sound else bool(shape) and shape[-3] in COLORS
        if role is None or shape[0] != 1 or not fits or not tensor.is_floating_point():
            what = f"its call returns {tensor.dtype} {list(tensor.shape)}, which is not a picture, a video or sound"
            raise _CannotDecodeError(what)
        if not is_sound and not is_raw and not _is_picture(tensor):
            raise _CannotDecodeError(OUT_OF_RANGE)
        entries.append(TensorEntry(IMAGE if role == "image" else role, role, shape))
    if len({entry.role for entry in entries}) < len(entries):
        raise _CannotDecodeError(f"its call returns {len(entries)} tensors of one kind")
    return tuple(entries)


def _find_conditions(
    recorded: RecordedPipeline, decoding: RecordedDecoding, settings: CallSettings, x: Tensor, run: CallRecord
) -> RecordedDecoding:
    """Return the decoding with the conditions of the network on which its output depends besides x. `run` is the
    recording of its call. Raises _CannotDecodeError if the output depends on the seed, the texts or the pictures in
    another way, or not on x."""
    tensors, changes = decoding.finish(x), dict(settings.texts[0]) if settings.texts else {}
    for change in (PICTURE,) if settings.texts else (PROMPT, OTHER, PICTURE):
        changes |= settings.variants.get(change, {})
    changes = changes if OUTPUT not in decoding.settings else {**changes, OUTPUT: TENSORS}
    for seed, more in ((1, {}), (0, changes)):
        others = decoding.finish(x, seed=seed, **more)
        if _are_close(others, tensors):
            continue
        if not decoding.conditions and decoding.outputs[0].role != "image":  # decoders of pictures take x only
            decoding = replace(decoding, conditions=read_conditions(recorded, run).get(COND, {}))
            _, used = decoding.finish_with(x, decoding.conditions)
            decoding = replace(decoding, conditions={name: decoding.conditions[name] for name in sorted(used)})
        other = read_conditions(recorded, record(decoding.built, {**decoding.settings, **more}, seed)).get(COND, {})
        if not _are_close(decoding.finish_with(x, {name: other[name] for name in decoding.conditions})[0], others):
            what = "the seed" if not more else "its texts and pictures"
            raise _CannotDecodeError(f"its output depends on {what} besides x")
    if all(map(torch.equal, decoding.finish(-x), tensors)):
        raise _CannotDecodeError("its output does not depend on x")
    return decoding


def _are_close(own: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(own) == len(others) and all(map(is_close, own, others))


def _find_frame_rate(built: BuiltPipeline, settings: Mapping[str, Any]) -> float | None:
    """Return the frames per second that a call takes."""
    takes = inspect.signature(type(built.pipeline).__call__).parameters
    values = [settings.get(name, takes[name].default) for name in FRAME_RATES if name in takes]
    return next((float(value) for value in values if isinstance(value, int | float) and value > 0), None)


def _find_sample_rate(built: BuiltPipeline, components: Sequence[str]) -> int | None:
    """Return the samples per second of the last network that states them."""
    configs = [getattr(getattr(built.pipeline, name), "config", None) for name in reversed(components)]
    values = [getattr(config, name, None) for config in configs for name in SAMPLE_RATES]
    return next((int(value) for value in values if isinstance(value, int | float) and value > 0), None)


def _make_autoencoder(decoding: RecordedDecoding, read: ReadNetwork) -> AutoencoderSource:
    """Return the decoder of x, and the encoder of pictures if the pipeline's decoder has one."""
    networks = {name: read(name, type(getattr(decoding.built.pipeline, name))) for name in decoding.components}
    weights = sum(network.total - network.encoding for network in networks.values())
    given = {name: random_latents(1, tuple(value.shape)) for name, value in decoding.conditions.items()}
    conditions = [TensorEntry(name, "condition", value.shape) for name, value in given.items()]

    def make_decoder(x_shape: tuple[int, ...]) -> Companion:
        resized = decoding.at(x_shape)
        return Companion(
            "decoder",
            lambda: RecordedDecoder(decoding, {name: network.load() for name, network in networks.items()}),
            (TensorEntry(LATENT, "latent", (1, *x_shape)), *conditions),
            resized.outputs,
            lambda batch: {LATENT: random_latents(batch, x_shape), **given},
            (1,),
            weights,
            at=make_decoder if decoding.ending.is_whole and not conditions else None,
        )

    decoder = make_decoder(decoding.x_shape)
    (only, *others), encoder = networks.values(), None
    if decoding.outputs[0].role == "image" and not others:
        autoencoder = copy_network(only.load())  # that of a pipeline in memory may be in bfloat16

        def find_ports(x_shape: tuple[int, ...]) -> tuple[ElementMap | None, tuple[int, ...]]:
            resized = decoding.at(x_shape)
            with place(decoding.built.pipeline, {decoding.components[0]: autoencoder}):
                latents = find_latents(autoencoder, resized.finish, x_shape)
            image_shape = tuple(map(int, resized.outputs[0].shape[1:]))
            if latents is not None and not RecordedEncoder(autoencoder, latents).takes(image_shape):
                return None, image_shape
            return latents, image_shape

        if hasattr(autoencoder, "encode"):
            encoder = make_encoder(only.load, only.encoding, find_ports, decoding.x_shape)
    files = tuple(file for network in networks.values() for file in network.files)
    return AutoencoderSource(decoder, encoder, files, decoding.frame_rate, decoding.sample_rate)
