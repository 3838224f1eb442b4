"""Record the conditions that a pipeline's call makes from its texts."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from fewstep.pipelines.companions.recorded_encoders import picture_name
from fewstep.pipelines.recorded_pipeline import RecordedPipeline
from fewstep.pipelines.recording.call_record import CallRecord
from fewstep.pipelines.recording.record import CallError
from fewstep.pipelines.recording.settings import LONGER, LONGEST, NEGATIVE, OTHERS, PROMPT, PROMPTS, SHORT, pad_texts
from fewstep.pipelines.recording.text_calls import Outputs, TextRecord, record_texts
from fewstep.pipelines.relations.argument_rows import branch_values
from fewstep.pipelines.relations.arguments import branch_names
from fewstep.pipelines.relations.row_lists import shorten_lists
from fewstep.pipelines.relations.text_forms import UNCLEAN, TextError
from fewstep.pipelines.relations.text_search import TextSample
from fewstep.plans.guidance import COND, UNCOND
from fewstep.runtime.bundle.manifest import Condition, Size
from fewstep.runtime.kinds.sizes import fit_lengths

TEXTS = (  # prompt and negative prompt of the calls; the last ones are the shortest that a user may give
    (PROMPTS[0], OTHERS[0]),
    (LONGER, SHORT),
    (LONGEST, LONGEST),
    (UNCLEAN, UNCLEAN),
    (SHORT, ""),
)
EMPTY = ("", LONGEST)
# texts beside the longest one, so that nothing needs padding before it is encoded
ALONE = tuple(pair for texts in TEXTS for pair in ((texts[0], LONGEST), (LONGEST, texts[1])) if texts[0] != LONGEST)


def record_samples(
    recorded: RecordedPipeline,
    prompt: str,
    negative: str | None,
    keeps: Outputs | None = None,
    variant: str | None = None,
) -> list[TextSample]:
    """Return the samples of a call: its conditional branch, and the unconditional one if it takes a negative prompt.
    `variant` is another setting of the call."""
    record, values = record_conditions(recorded, prompt, negative, keeps, variant)
    texts = {COND: prompt} | (
        {UNCOND: negative} if negative is not None and NEGATIVE in recorded.settings.usual else {}
    )
    return [TextSample(text, branch, record, values[branch]) for branch, text in texts.items() if branch in values]


def record_longest(recorded: RecordedPipeline) -> tuple[str, list[TextSample]]:
    """Return a text longer than any limit, with the samples of its call. If this fails, as where a limit cuts a picture
    off, it is a text of a sentence."""
    try:
        return LONGEST, record_samples(recorded, LONGEST, LONGEST)
    except CallError:
        return LONGER, record_samples(recorded, LONGER, LONGER)


def record_alone(recorded: RecordedPipeline, keeps: Outputs) -> list[TextSample]:
    """Return the samples of texts that are encoded without padding, also of an empty prompt if the call takes one."""
    samples = [sample for texts in ALONE for sample in record_samples(recorded, *texts, keeps)]
    with suppress(CallError):  # its call may take no empty prompt
        samples += record_samples(recorded, *EMPTY, keeps)
    return samples


def find_features(record: TextRecord) -> dict[str, Tensor]:
    """Return the features [N, width] of a picture that text encoders got in a recording, by the names of their
    conditions."""
    return {picture_name(run.component): run.picture.features for run in record.runs if run.picture is not None}


def is_zero(sample: TextSample, names: Iterable[str]) -> bool:
    """Return True for an empty prompt whose conditions of these names are zeros, as in pipelines that do not encode
    it. Others, such as a picture, do not depend on a text."""
    return not sample.prompt and not any(bool(sample.conditions[name].any()) for name in names)


def record_conditions(
    recorded: RecordedPipeline,
    prompt: str,
    negative: str | None,
    keeps: Outputs | None = (),
    variant: str | None = None,
) -> tuple[TextRecord, dict[str, dict[str, Tensor]]]:
    """Return a recording with these texts, and the conditions [*shape] of each branch by name. Without a negative
    prompt, the pipeline uses its default, whose conditions may be shorter. `keeps` are the outputs of networks that are
    kept, if not all. `variant` is another setting of the call."""
    settings = recorded.settings
    texts = {PROMPT: settings.read_prompt(prompt)} | ({NEGATIVE: negative} if NEGATIVE in settings.usual else {})
    is_padded = settings.forms.is_padded and negative is not None and (prompt, negative) not in (*ALONE, EMPTY)
    texts = pad_texts(texts) if is_padded else texts
    call = settings.of(variant, texts)
    if negative is None:
        if settings.forms.is_padded:
            call |= pad_texts({PROMPT: texts[PROMPT]})
        call.pop(NEGATIVE, None)
    record = record_texts(recorded.built, call, keeps)
    values, sizes = read_conditions(recorded, record.call), recorded.arguments.sizes
    if negative is None:
        return record, values
    return record, {
        branch: {
            condition.name: _as_condition(own.get(condition.name), condition, sizes)
            for condition in recorded.arguments.conditions
            if condition.default is None
        }
        for branch, own in values.items()
    }


def read_conditions(recorded: RecordedPipeline, call: CallRecord) -> dict[str, dict[str, Tensor]]:
    """Return the conditions [*shape] of the last sample of a recording, by branch and name, without those that have a
    default, and those that a branch lacks."""
    step, arguments = shorten_lists(call, recorded.row_lists).steps[-1], recorded.arguments
    names = branch_names(recorded.relations.branches, arguments)
    values: dict[str, dict[str, Tensor]] = {}
    for path, argument in arguments.arguments.items():
        condition = argument.condition
        if condition is None or condition.default is not None:
            continue
        branches = branch_values(step, recorded.relations, path, argument.repeats)
        for branch, value in zip(names, branches, strict=False):
            values.setdefault(branch, {}).update({} if value is None else {condition.name: value[-1]})
    return values


def _as_condition(value: Tensor | None, condition: Condition, sizes: Sequence[Size]) -> Tensor:
    """Return a condition of its shape. If a text of full length has no mask, the mask is all ones."""
    if value is None and (condition.low, condition.high) == (0, 1):
        return torch.ones(condition.shape)
    if value is None or tuple(value.shape) != fit_lengths([condition], {condition.name: value[None]}, sizes)[0].shape:
        raise TextError(f"the condition {condition.name} has another shape for some texts")
    return value
