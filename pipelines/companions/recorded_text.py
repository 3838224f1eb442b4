"""The text encoders of a recorded pipeline as one network from token ids to conditions.

Nothing is listed for each pipeline. Its call runs with several texts, and the values of its conditions show from which
outputs of its encoders they come.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from fewstep.export.companions.companion import Companion
from fewstep.export.companions.networks import NO_PROMPTS
from fewstep.export.companions.text import TextSource, TokenInput, tokenize_prompts
from fewstep.graph.graph import Array
from fewstep.pipelines.companions.added_mask import refuse_padding
from fewstep.pipelines.companions.recorded_conditions import (
    TEXTS,
    find_features,
    is_zero,
    record_alone,
    record_conditions,
    record_longest,
    record_samples,
)
from fewstep.pipelines.companions.recorded_encoders import RecordedEncoders, RecordedText
from fewstep.pipelines.companions.stored_network import ReadNetwork
from fewstep.pipelines.companions.text import TRIED, converts_prompts, find_t5, merge_loras
from fewstep.pipelines.recorded_pipeline import RecordedPipeline
from fewstep.pipelines.recording.record import CallError
from fewstep.pipelines.recording.settings import LONGEST, NEGATIVE, PICTURE, PROMPT, PROMPTS
from fewstep.pipelines.recording.stand_ins import LengthError, is_small
from fewstep.pipelines.recording.text_calls import TextRecord, find_tokenizers
from fewstep.pipelines.relations.argument_rows import branch_values
from fewstep.pipelines.relations.arguments import condition_name
from fewstep.pipelines.relations.relations import same
from fewstep.pipelines.relations.row_lists import shorten_lists
from fewstep.pipelines.relations.text_forms import TextError, UnknownIdsError, find_text
from fewstep.pipelines.relations.text_rules import (
    BlockGrid,
    PaddingError,
    agrees,
)
from fewstep.pipelines.relations.text_search import (
    TextSample,
    TextSearch,
    find_outputs,
    find_text_lengths,
    list_text_conditions,
)
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import COND, UNCOND
from fewstep.runtime.bundle.manifest import Condition, TensorEntry
from fewstep.runtime.kinds.companions import TextLength, ZerosForEmpty
from fewstep.runtime.lora.file import Lora
from fewstep.runtime.lora.keys import Component

LOG = logging.getLogger("fewstep")
CONSTANT = "%s: the network's argument %s is constant in the bundle, but depends on prompts such as %r"
SEES_PICTURE = (
    "%s: its text encoder also sees a picture: fewstep encode %s --image FILE -o picture.npz writes what it sees, and "
    "fewstep run takes --conditions picture.npz"
)
NO_PROMPTS_OF = f"%s: {NO_PROMPTS}"


def read_recorded_text(
    label: str, recorded: RecordedPipeline, read: ReadNetwork, without: Sequence[str] = ()
) -> tuple[TextSource, bool] | None:
    """Return the text encoders of a recorded pipeline, and whether its unconditional text is all zeros. Returns None if
    its call takes no prompt, or, with a warning, if its conditions do not follow from texts by rules. `without` are
    components without weights. Raises LengthError if only padded texts follow no rules."""
    if PROMPT not in recorded.settings.usual:
        return None
    try:
        text = find_text_rules(recorded)
        if missing := [] if text is None else [name for name in text.components if name in without]:
            raise TextError(f"its {missing[0]} has no weights")
    except (TextError, UserError) as error:
        if isinstance(error, PaddingError) and not recorded.settings.forms.has_free_length:
            raise LengthError(str(error)) from error
        reason = error.what if isinstance(error, UserError) else str(error)
        LOG.warning(NO_PROMPTS_OF, label, reason)
        return None
    if text is None:
        return None
    if text.pictures:
        LOG.warning(SEES_PICTURE, label, label)
    return _make_source(recorded, text, read), text.zeros_for_none


def find_text_rules(recorded: RecordedPipeline) -> RecordedText | None:
    """Return how the conditions of a pipeline follow from texts, or None if they do not depend on any. Raises TextError
    if no rules describe that."""
    if isinstance(recorded.settings.usual[PROMPT], Mapping):
        raise TextError("its prompt is a JSON object")
    longest, samples = record_longest(recorded)
    keeps = {output for sample in samples for output in find_outputs(sample)}
    pairs = [tuple(longest if text == LONGEST else text for text in texts) for texts in TEXTS]
    samples = [sample for prompt, negative in pairs for sample in record_samples(recorded, prompt, negative, keeps)]
    try:
        return _find_text_rules(recorded, samples)
    except UnknownIdsError:  # a pipeline may have other ids for an empty text, which only a text alone shows
        return _find_text_rules(recorded, record_alone(recorded, keeps))


def _find_text_rules(recorded: RecordedPipeline, all_samples: Sequence[TextSample]) -> RecordedText | None:
    shared = {condition.name for condition in recorded.arguments.conditions if condition.shared}
    names = [name for name in list_text_conditions(all_samples) if name not in shared]  # such as an encoded picture
    samples = [sample for sample in all_samples if not is_zero(sample, names)]
    sees_picture = PICTURE in recorded.settings.variants and bool(find_features(samples[0].record))
    others = record_samples(recorded, *TEXTS[0], variant=PICTURE) if sees_picture else []
    search = TextSearch([*samples, *others], find_tokenizers(recorded.built.pipeline))
    rules = search.find_all(names)
    if not rules:
        return None
    dtypes = {condition.name: getattr(torch, condition.dtype) for condition in recorded.arguments.conditions}
    text = RecordedText(
        tuple(search.encoders), rules, dtypes, lengths=find_text_lengths(recorded.arguments, search, rules)
    )
    nothing, zeros = find_nothing(recorded, text)
    text = replace(text, nothing=nothing, zeros=zeros)
    if len(samples) < len(all_samples):
        text = replace(text, zeros_for_empty=find_zeros_for_empty(recorded, names))
    if not text.pictures:
        refuse_pictures(recorded, text, samples[0])
    warn_of_constants(recorded, samples)
    _check(recorded, text, search.samples, search.find_unmasked())
    return text


def find_nothing(recorded: RecordedPipeline, text: RecordedText) -> tuple[str, bool]:
    """Return the text of the unconditional branch if the caller gives no negative prompt, and whether this branch has
    zeros instead of a text. It is the empty text for a call that needs a negative prompt."""
    if recorded.arguments.unconditional is None:
        return "", False
    try:
        record, values = record_conditions(recorded, PROMPTS[0], None)
    except CallError:
        return "", False
    if UNCOND not in values:  # without a negative prompt, its call has no guidance
        return "", False
    of_floats = [name for name, rule in text.rules.items() if isinstance(rule, BlockGrid)]
    if lacking := [name for name in of_floats if name not in values[UNCOND]]:
        raise TextError(f"its unconditional branch has no {lacking[0]} without a negative prompt")
    floats = [values[UNCOND][name] for name in of_floats]
    if all(not bool(value.any()) for value in floats):
        return "", True
    for nothing in dict.fromkeys(["", *_read_texts(text, record)]):
        if PROMPTS[0] not in nothing and _is_text_of(recorded, text, nothing, values[UNCOND]):
            return nothing, False
    raise TextError("the text of its unconditional branch, without a negative prompt, is unknown")


def find_zeros_for_empty(recorded: RecordedPipeline, names: Sequence[str]) -> ZerosForEmpty:
    """Return whether a pipeline that has zeros for an empty negative prompt, in the conditions of these names, has them
    for any other empty prompt too."""
    with suppress(CallError):  # its call may take no empty prompt
        (conditional, *_) = record_samples(recorded, "", "", ())
        return "always" if is_zero(conditional, names) else "negative"
    return "negative"


def _read_texts(text: RecordedText, record: TextRecord) -> Iterator[str]:
    """Yield the texts that the encoders of token ids received in a recording."""
    for number, tokens in text.tokens.items():
        component = text.encoders[number].component
        runs = [run for run in record.runs if run.component == component and run.ids in run.inputs]
        for ids in (row for run in runs for row in run.inputs[run.ids]):
            if (prompt := find_text(tokens, ids, record.texts)) is not None:
                yield prompt


def _is_text_of(recorded: RecordedPipeline, text: RecordedText, prompt: str, conditions: Mapping[str, Tensor]) -> bool:
    """Return True if the pipeline encodes a prompt to these conditions, or to longer ones that start with them."""
    is_negative = NEGATIVE in recorded.settings.usual
    for prompts in ((PROMPTS[0], prompt), (LONGEST, prompt)) if is_negative else ((prompt, None),):
        try:
            known = record_conditions(recorded, *prompts)[1].get(UNCOND if is_negative else COND, {})
        except (TextError, CallError):  # it takes no such prompt
            continue
        read = [(known.get(name), conditions[name].float()) for name in text.rules if name in conditions]
        if all(own is not None and agrees(own.float(), value) for own, value in read):
            return True
    return False


def refuse_pictures(recorded: RecordedPipeline, text: RecordedText, sample: TextSample) -> None:
    """Raise TextError if an encoder also sees pictures or arrays of the call, which `sample` was recorded with. A
    bundle's text encoder gets texts only."""
    if PICTURE not in recorded.settings.variants:
        return
    _, values = record_conditions(recorded, *TEXTS[0], variant=PICTURE)
    for name in text.rules:
        if not agrees(values[COND][name].float(), sample.conditions[name].float()):
            raise TextError(f"the condition {name} depends on a picture or an array of the call besides its text")


def warn_of_constants(recorded: RecordedPipeline, samples: Sequence[TextSample]) -> None:
    """Warn of arguments that are the same in all recordings of the denoiser, but not for the texts of the samples, such
    as an encoding of the words in quotes."""
    steps = [shorten_lists(sample.record.call, recorded.row_lists).steps[0] for sample in samples]
    for path, argument in recorded.arguments.arguments.items():
        if argument.condition is not None or argument.counts is not None:
            continue
        first, *others = [list(branch_values(step, recorded.relations, path, argument.repeats)) for step in steps]
        for sample, values in zip(samples[1:], others, strict=True):
            if not all(map(same, first, values)):
                LOG.warning(CONSTANT, recorded.built.name, condition_name(path), sample.prompt)
                break


def _check(
    recorded: RecordedPipeline, text: RecordedText, samples: Sequence[TextSample], unmasked: Sequence[str]
) -> None:
    """Raise TextError if the module computes other conditions than the pipeline, both with stand-ins for the networks.
    Stand-ins of large networks compute nothing: there, only the recordings were compared, and `unmasked` components,
    whose result may depend on the padding, are refused."""
    networks = {name: getattr(recorded.built.pipeline, name) for name in text.components}
    if not all(map(is_small, networks.values())):
        if unmasked:
            raise TextError(f"the padding of its {unmasked[0]} may matter, and it is too large to run during export")
        return
    module, tokens = RecordedEncoders(networks, text).eval(), text.token_inputs(converts_prompts(recorded.built.name))
    for sample in samples:
        fed = tokenize_prompts(tokens, [sample.prompt], sample.branch == UNCOND)
        values = {name: torch.from_numpy(ids) for name, ids in fed.items()}
        values |= {name: features[None] for name, features in find_features(sample.record).items()}
        with torch.no_grad():
            computed = module(*(values[entry.name] for entry in text.inputs))
        for name, value in zip(text.rules, computed, strict=True):
            if not agrees(value[0].float(), sample.conditions[name].float()):
                raise TextError(f"the condition {name} depends on the padding of its text")


def _feed(tokens: Sequence[TokenInput], pictures: Sequence[Condition], batch: int) -> dict[str, Array]:
    """Return inputs of the text encoder: the ids of prompts, with random features of pictures."""
    random = np.random.default_rng(0)
    features = {picture.name: random.standard_normal((batch, *picture.shape), np.float32) for picture in pictures}
    return {**tokenize_prompts(tokens, [TRIED[number % len(TRIED)] for number in range(batch)]), **features}


def _make_source(recorded: RecordedPipeline, text: RecordedText, read: ReadNetwork) -> TextSource:
    pipeline = recorded.built.pipeline
    stored = {name: read(name, type(getattr(pipeline, name))) for name in text.components}
    tokens = text.token_inputs(converts_prompts(recorded.built.name))
    conditions = {condition.name: condition for condition in recorded.arguments.conditions}
    outputs = [
        TensorEntry(name, "condition", ("batch", *conditions[name].shape), conditions[name].dtype)
        for name in text.rules
    ]

    pads_first = {text.encoders[number].component for number, own in text.tokens.items() if own.file.pads_first}

    def load(loras: Sequence[Lora] = ()) -> nn.Module:
        networks = {}
        for name, entry in stored.items():
            network = entry.load()
            choose = getattr(network, "set_attn_implementation", None)
            if name in pads_first and callable(choose) and network._supports_sdpa:  # as in the pipeline
                choose("sdpa")  # whose result for padding that attends to nothing is zero
            if (config := getattr(network, "config", None)) is not None and hasattr(config, "use_cache"):
                config.use_cache = False
            networks[name] = network
            for component in get_args(Component):
                if component == name:
                    merge_loras(network, loras, component)
        return RecordedEncoders(networks, text)

    def check(module: nn.Module) -> None:
        for number, encoder in enumerate(text.encoders):
            if encoder.adds_mask:
                refuse_padding(module.get_submodule(f"networks.{encoder.component}"), encoder, text.paths(number))

    files = tuple(file for network in stored.values() for file in network.files)
    companion = Companion(
        "text encoder",
        load,
        text.inputs,
        tuple(outputs),
        partial(_feed, tokens, text.pictures),
        weights=sum(network.total for network in stored.values()),
        check=check,
    )
    encoders = tuple(component for component in get_args(Component) if component in text.components)
    configs = {component: getattr(getattr(pipeline, component), "config", None) for component in encoders}
    t5 = find_t5({component: getattr(config, "model_type", None) for component, config in configs.items()})
    lengths = tuple(TextLength(size, text.names[encoder][0], more) for size, (encoder, more) in text.lengths.items())
    form = None, text.nothing, t5, text.zeros_for_empty, lengths
    return TextSource(companion, tokens, files, encoders, load, *form, is_recorded=True, pictures=text.pictures)
