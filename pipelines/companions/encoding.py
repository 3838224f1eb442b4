"""Encode prompts and images as the conditions of a bundle, with the code and the encoders of the pipeline that it was
recorded from."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from fewstep.measure.rollouts.conditions_file import array_name
from fewstep.pipelines.companions.recorded_conditions import find_features
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.files.loading import load_component
from fewstep.pipelines.recorded_pipeline import RecordedPipeline
from fewstep.pipelines.recording.components import BuiltPipeline, build_pipeline
from fewstep.pipelines.recording.pictures import PICTURES, VIDEOS
from fewstep.pipelines.recording.quiet import silence_libraries
from fewstep.pipelines.recording.record import record
from fewstep.pipelines.recording.settings import LONGER, NEGATIVE, PROMPT, PROMPTS, pad_texts
from fewstep.pipelines.recording.stand_ins import AUTOENCODERS
from fewstep.pipelines.recording.text_calls import record_texts
from fewstep.pipelines.relations.argument_rows import branch_values
from fewstep.pipelines.relations.arguments import Argument, branch_names
from fewstep.pipelines.relations.relations import same
from fewstep.pipelines.relations.row_lists import shorten_lists
from fewstep.plans.errors import UserError, first_line
from fewstep.plans.guidance import COND
from fewstep.runtime.bundle.manifest import Condition, Size
from fewstep.runtime.kinds.sizes import fit_lengths
from fewstep.runtime.pictures import check_bits

Conditions = dict[str, NDArray[Any]]
SAME_CALL = "give encode the same --call as the export"


def encode_conditions(
    built: BuiltPipeline,
    recorded: RecordedPipeline,
    prompts: Sequence[str],
    negative: str | None,
    pictures: Mapping[str, Path],
) -> Conditions:
    """Return the conditions [N, *shape] of N prompts by name. Conditions that have a default are left out.

    The pipeline's call runs once for each prompt. `built` has its encoders, and a stand-in for the denoiser. negative:
    a text for the other branches of guidance, whose conditions are `BRANCH.NAME`. pictures: image files by the
    arguments of the call. With pictures and no prompt, those conditions are returned that follow from pictures alone,
    and the features of a picture from which the bundle's text encoder encodes prompts.

    Raises UserError for a prompt or an image that the call does not take, or requires and does not get, and if an
    argument of the denoiser that is not a condition differs from the recording, or a condition has a different shape.
    """
    _check_inputs(recorded, prompts, negative, pictures)
    call: dict[str, Any] = {name: _read_picture(path) for name, path in pictures.items()}
    call |= {} if negative is None else {NEGATIVE: negative}
    rows: list[Conditions] = []
    with silence_libraries():
        built = built.with_layout_of(recorded.built)
        if PROMPT in recorded.settings.usual and not prompts:
            rows.append(_encode_pictures(built, recorded, call))
        for prompt in prompts or ((None,) if not rows else ()):
            text = {} if prompt is None else {PROMPT: recorded.settings.read_prompt(prompt)}
            rows.append(_encode_one(built, recorded, {**call, **text}, negative is not None))
    for name, first in rows[0].items():
        if any(row[name].shape != first.shape for row in rows):
            what = f"the prompts have different numbers of tokens, and {name!r} of a file has one"
            raise UserError(what, "write a file for each prompt: fewstep run takes a folder of them")
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _encode_pictures(built: BuiltPipeline, recorded: RecordedPipeline, call: Mapping[str, Any]) -> Conditions:
    """Return the conditions of pictures: those that are the same for other texts, and the features from which text
    encoders encode a prompt."""
    texts = [{PROMPT: recorded.settings.read_prompt(prompt)} for prompt in (PROMPTS[0], LONGER)]
    first, other = (_encode_one(built, recorded, {**call, **text}, has_branches=False) for text in texts)
    features = find_features(record_texts(built, recorded.settings.of(None, {**call, **texts[0]}), ()))
    own = {name: value for name, value in first.items() if np.array_equal(value, other[name])}
    return own | {name: value.float().numpy() for name, value in features.items()}


def load_encoders(folder: Folder, dtype: torch.dtype, has_pictures: bool) -> BuiltPipeline:
    """Return the pipeline of a folder with its encoders, which run in `dtype`."""
    with silence_libraries():
        return build_pipeline(folder, load=partial(_load_encoder, dtype=dtype, has_pictures=has_pictures))


def _check_inputs(
    recorded: RecordedPipeline, prompts: Sequence[str], negative: str | None, pictures: Mapping[str, Path]
) -> None:
    name, usual = recorded.built.name, recorded.settings.usual
    if PROMPT not in usual and prompts:
        raise UserError(f"the call of {name} takes no prompt", "leave --prompt out")
    if PROMPT in usual and not prompts and (negative is not None or not pictures):
        raise UserError(f"the call of {name} takes a prompt", 'give one: --prompt "..."')
    if negative is not None and NEGATIVE not in usual:
        raise UserError(f"the call of {name} takes no negative prompt", "leave --negative out")
    if negative is not None and recorded.relations.branches == 1:
        raise UserError(f"{name} uses no guidance by default, and encodes no negative prompt", "leave --negative out")
    takes = [picture for picture in PICTURES if picture in usual]
    for picture in pictures:
        if picture not in takes:
            listed = f"give one of {', '.join(takes)}" if takes else "leave --image out"
            raise UserError(f"{name} was recorded without {picture!r}", listed)
    if videos := [condition for condition in takes if condition in VIDEOS]:
        raise UserError(f"{name} takes the video {videos[0]}, and videos cannot be encoded here", "encode it in Python")
    if missing := [condition for condition in takes if condition not in pictures]:
        fix = "--image FILE" if missing[0] == "image" else f"--image {missing[0]}=FILE"
        raise UserError(f"{name} takes the image {missing[0]}, which is not given", f"add {fix}")


def _encode_one(
    built: BuiltPipeline, recorded: RecordedPipeline, call: Mapping[str, Any], has_branches: bool
) -> Conditions:
    """Return the conditions [*shape] of one sample, by name. With `has_branches`, those of other branches of guidance
    are included."""
    found, arguments = recorded.relations, recorded.arguments
    texts = pad_texts(call) if recorded.settings.forms.is_padded else call
    made = record(built, recorded.settings.of(None, texts), 0)
    step = shorten_lists(made, recorded.row_lists).steps[0]
    if any(call.structure != arguments.structure for call in step.calls):
        raise UserError(f"{built.name} passes different arguments to its network than when it was recorded", SAME_CALL)
    names = branch_names(found.branches, arguments)
    values: Conditions = {}
    for path, argument in arguments.arguments.items():
        branches = list(branch_values(step, found, path, argument.repeats))
        if len(branches) != len(names):
            what = f"{built.name} calls its network for {len(branches)} branches, and was recorded with {len(names)}"
            raise UserError(what, SAME_CALL)
        if argument.condition is None:
            _check_constant(built.name, argument, branches)
            continue
        if argument.condition.default is not None:
            continue
        for branch, value in zip(names, branches, strict=True):
            if branch == COND or has_branches:
                name = argument.condition.name if branch == COND else array_name(branch, argument.condition.name)
                values[name] = _as_array(built.name, name, value, argument.condition, arguments.sizes)
    if not values:
        raise UserError(f"the network of {built.name} takes no conditions", "run its bundle without --conditions")
    return values


def _check_constant(name: str, argument: Argument, branches: Sequence[Any]) -> None:
    """Raise UserError if a network argument that the bundle stores as a constant has another value."""
    for branch in branches if argument.counts is None else ():
        own = branch[-1:] if argument.repeats and isinstance(branch, Tensor) else branch  # the last of equal rows
        if not same(own, argument.value):
            raise UserError(
                f"{name}: the network's argument {argument.path} differs from its value in the recording", SAME_CALL
            )


def _as_array(name: str, label: str, value: Tensor | None, condition: Condition, sizes: Sequence[Size]) -> NDArray[Any]:
    """Return a condition [*shape] of the last sample. If a text of full length has no mask, the mask is all ones.
    Raises UserError if the shape differs in other axes than those of `sizes`."""
    if value is None and (condition.low, condition.high) == (0, 1):
        return np.ones(condition.shape, condition.dtype)
    if value is None:
        raise UserError(f"{name} passes no {label!r} to its network, and was recorded with one", SAME_CALL)
    own = value[-1].float() if value.is_floating_point() else value[-1]
    (fitted,) = fit_lengths([condition], {condition.name: own[None]}, sizes)
    if tuple(own.shape) != fitted.shape:
        what = f"{name} encodes {label!r} as {list(own.shape)}, and was recorded with {list(condition.shape)}"
        raise UserError(what, SAME_CALL)
    return own.numpy().astype(condition.dtype)


def _load_encoder(home: Path, made: Any, dtype: torch.dtype, has_pictures: bool) -> nn.Module | None:
    """Load a network of the pipeline with its weights; None for an autoencoder that has nothing to encode."""
    if made.__module__.startswith(AUTOENCODERS) and not has_pictures:
        return None
    return load_component(home, made, dtype=dtype).to(dtype)


def _read_picture(path: Path) -> Image.Image:
    try:
        with Image.open(path) as opened:
            check_bits(opened.mode, path)
            return ImageOps.exif_transpose(opened).convert("RGB")  # as diffusers.utils.load_image does
    except UserError:
        raise
    except Exception as error:  # Pillow raises errors of many unrelated classes for damaged files
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"{path} cannot be read ({reason})", "give an image, such as a .png") from error
