"""The settings of a pipeline's call for its recordings: a usual call, and calls that differ from it in one setting."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.pipelines.recording.label_arguments import LABELS, change_labels, join_labels, make_labels
from fewstep.pipelines.recording.pictures import PICTURES, find_side, make_pictures
from fewstep.pipelines.recording.prompt_forms import put_text, read_prompt
from fewstep.pipelines.recording.stand_ins import UNRECORDED
from fewstep.plans.errors import UserError

STEPS = 3  # number of steps of a recording, and of a run that is compared
MORE_STEPS = 8  # number of steps of further recordings, and of a second run that is compared
STEPS_OF_TWO = 8  # number of steps for a pipeline with two networks
PROMPTS = ("a red cat on a mat", "a big dog in a car")  # of equal length
OTHERS = ("dark and grainy", "cold and smudgy")  # negative prompts of equal length
SHORT = "a"
LONGEST = " ".join(
    ["a red cat on a mat"] * 200
)  # 1200 words: more than pipelines take, so that all are cut to one length
LONGER = "a photo of a very small bird that sits on the roof of an old house near the sea"
LENGTH, SHORTNESS = "length of the prompt", "shortness of the prompt"  # variants
OTHER, OTHER_SHORTNESS = "negative prompt", "shortness of the negative prompt"  # variants
STEP_NUMBER = "number of steps"  # a variant
PICTURE = "image"  # a variant, of pictures and of arrays
ALONE = "argument "  # before the name of an array, in the name of a variant that changes this array alone
PROMPT, NEGATIVE = "prompt", "negative_prompt"
GUIDANCES = ("guidance_scale", "true_cfg_scale", "audio_guidance_scale", "embedded_guidance_scale", "guidance_scale_2")
CHANGE = 0.5  # of a weight in a variant
SCALES = ("controlnet_conditioning_scale", "adapter_conditioning_scale")  # weights of what a second network adds
PER_PROMPT = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt", "batch_size")
OUTPUT, STEP_COUNT, STRENGTH = "output_type", "num_inference_steps", "strength"
WHOLE = ("height", "width", "num_frames", STEP_COUNT)  # arguments that are positive whole numbers
USUAL = {  # arguments that each recording passes to a call that takes them
    "return_dict": False,
    OUTPUT: "latent",
    PROMPT: PROMPTS[0],
    NEGATIVE: OTHERS[0],
    STRENGTH: 1.0,
    "intermediate_timesteps": None,  # of Sana Sprint, whose default is for two steps only
}


@dataclass(frozen=True)
class Forms:
    """What is special about the usual call of a pipeline.

    has_pictures: it receives a random image for each argument that accepts one. An edit runs at strength 1, from
        noise.
    is_padded: it receives two prompts. The first is longer than the pipeline's limit, so that the second is padded.
    guided_by: the name and value of the guidance weight that it receives, if it would have no guidance by default.
    steps: the number of its steps, unless the user chose one.
    has_free_length: its texts are not padded, since the network reads their number of tokens.
    """

    has_pictures: bool = False
    is_padded: bool = False
    guided_by: tuple[str, float] | None = None
    steps: int = STEPS
    has_free_length: bool = False


PLAIN = Forms()


@dataclass(frozen=True)
class CallSettings:
    """The arguments of the pipeline calls that are recorded.

    usual: the arguments of the usual call.
    variants: by what they change, arguments that replace some of the usual ones.
    batches: arguments for more samples; a pipeline may accept only some of these.
    without: names of the image arguments that the call accepts, but does not need.
    forms: what is special about the call.
    texts: arguments of further calls, one for each padded text of the usual call, with this text alone.
    """

    usual: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    batches: tuple[Mapping[str, Any], ...] = ()
    without: tuple[str, ...] = ()
    forms: Forms = PLAIN
    texts: tuple[Mapping[str, Any], ...] = ()

    def of(self, variant: str | None = None, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the arguments of a call."""
        return {**self.usual, **(self.variants[variant] if variant else {}), **(more or {})}

    @property
    def other_steps(self) -> int | None:
        """The second number of steps whose plan is compared. None if the call takes no number of steps."""
        if STEP_COUNT not in self.usual:
            return None
        return STEPS if self.usual[STEP_COUNT] == MORE_STEPS else MORE_STEPS

    def read_prompt(self, text: str) -> Any:
        """Return the prompt that a text gives, in the form of the usual one."""
        return read_prompt(text, self.usual[PROMPT])

    def of_one_sample(self) -> dict[str, Any]:
        """Return the arguments of a call that makes one sample."""
        return dict(self.texts[-1] if self.texts else self.usual)


def choose_settings(pipeline: Any, given: Mapping[str, Any], forms: Forms = PLAIN) -> CallSettings:
    """Choose the arguments of the calls of a pipeline that are recorded. `given` are arguments that the user chose.

    Raises UserError for an argument that the call does not take, and for one that it requires and that is not a text.
    """
    takes, values = _read_given(pipeline, given)
    usual = {each: value for each, value in USUAL.items() if each in takes}
    usual |= {STEP_COUNT: forms.steps} if STEP_COUNT in takes else {}
    usual |= make_labels(pipeline, takes)
    arrays = {each: torch.from_numpy(value) for each, value in values.items() if isinstance(value, np.ndarray)}
    usual |= (make_pictures(takes, values, 0, find_side(pipeline)) if forms.has_pictures else {}) | {**values, **arrays}
    needed = _find_needed(takes, usual)
    if needed and not (forms.has_pictures or set(needed) - set(PICTURES)):
        return choose_settings(pipeline, given, replace(forms, has_pictures=True))
    if needed:
        what = f"the call of {type(pipeline).__name__} needs {', '.join(needed)}, which a recording cannot make"
        raise UserError(what, _fix_of_needed(needed[0], takes))
    if forms.guided_by is not None:
        usual |= [forms.guided_by]
    variants = _variants(takes, usual)
    off = {name: weight for name, weight in values.items() if name in GUIDANCES and _is_off(weight)}
    variants |= {name: {name: weight - CHANGE} for name, weight in off.items()}  # a larger one adds a branch
    if forms.has_free_length:
        variants[LENGTH] = {PROMPT: put_text(usual[PROMPT], LONGEST)}
    if forms.has_pictures:
        variants[PICTURE] = make_pictures(takes, values, 1, find_side(pipeline))
    variants |= change_labels(usual, make_labels(pipeline, takes))
    if arrays:
        variants |= _change_arrays(arrays, variants.get(PICTURE, {}))
    texts = {name: variants[each][name] for name, each in ((PROMPT, PROMPT), (NEGATIVE, OTHER)) if name in usual}
    labels = join_labels(usual, variants.get(LABELS, {}))
    batches = tuple({**labels, **batch} for batch in _batches(takes, usual, texts, variants.get(PICTURE, {}), labels))
    without = tuple(picture for picture in PICTURES if picture in takes and picture not in usual)
    if not forms.is_padded:
        return CallSettings(usual, variants, batches, without, forms)
    variants.pop(LENGTH, None)  # with two long texts, none would be padded
    padded = {name: pad_texts(each) for name, each in variants.items()}
    longest = {**usual, **{name: LONGEST for name in (PROMPT, NEGATIVE) if name in usual}}
    return CallSettings(pad_texts(usual), padded, tuple(map(pad_texts, batches)), without, forms, (longest, usual))


def _read_given(pipeline: Any, given: Mapping[str, Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """Return the parameters of a call, without the texts that are given as None, and the values of the others."""
    parameters = inspect.signature(type(pipeline).__call__).parameters
    _check_given(type(pipeline).__name__, parameters, given)
    absent = {each for each in (PROMPT, NEGATIVE) if each in given and given[each] is None}  # arrays replace the texts
    takes = {each: parameter for each, parameter in parameters.items() if each not in absent}
    return takes, {each: _as_annotated(value, takes[each].annotation) for each, value in given.items() if each in takes}


def _find_needed(takes: Mapping[str, inspect.Parameter], usual: Mapping[str, Any]) -> list[str]:
    """Return the names of the parameters that a call requires and that have no value."""
    return [
        argument.name
        for argument in list(takes.values())[1:]
        if argument.default is argument.empty
        and argument.kind is argument.POSITIONAL_OR_KEYWORD
        and argument.name not in usual
    ]


def _change_arrays(arrays: Mapping[str, Tensor], pictures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the variants that change arrays: all of them and the images together, and each of several alone."""
    changed = {each: _change_array(each, value) for each, value in arrays.items()}
    alone = {f"{ALONE}{each}": {each: value} for each, value in changed.items()} if len(arrays) > 1 else {}
    return {PICTURE: {**pictures, **changed}, **alone}


def _change_array(name: str, value: Tensor) -> Tensor:
    """Return a different array of the same shape, with values in the same range if they are zeros and ones, or other
    integers.

    Raises UserError for an array of equal integers, from which it does not follow which other integers are valid.
    """
    if bool(((value == 0) | (value == 1)).all()):
        return 1 - value if value.dtype != torch.bool else ~value
    if not value.is_floating_point():
        if bool((value == value.flatten()[0]).all()):
            what = f"the integers of --call {name} are all equal, so that no recording shows what depends on them"
            raise UserError(what, f"give {name} two or more different integers")
        return value.min() + value.max() - value
    return torch.randn(value.shape, generator=torch.Generator().manual_seed(1)).to(value.dtype)


def _join(value: Any, other: Any) -> Any:
    """Return two images as a list, or two arrays as one array with the rows of both."""
    return torch.cat([value, other]) if isinstance(value, Tensor) and value.dim() else [value, other]


def _fix_of_needed(argument: str, takes: Mapping[str, Any]) -> str:
    """Return the fix for a call that needs an argument, and takes these."""
    prompt = "" if PROMPT in takes else f"if it is the prompt, name it {PROMPT}; "
    return f"{prompt}if it is an array, give it: --call {argument}=@FILE.npy; otherwise {UNRECORDED}"


def _check_given(name: str, takes: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise UserError for an argument that the call does not take, and for a size that is not a whole number."""
    for each, value in given.items():
        if each not in takes:
            raise UserError(f"the call of {name} takes no {each!r}", f"give one of {', '.join(list(takes)[1:])}")
        is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if each in WHOLE and value is not None and not is_whole:  # with None, some calls choose by their network
            raise UserError(f"--call {each}={value!r}", f"give {each} a whole number, such as --call {each}=64")
    if STRENGTH in given:
        raise UserError(f"{name} is recorded at strength 1", "leave strength out; fewstep run has --strength")


def _as_annotated(value: Any, annotation: Any) -> Any:
    """Return a list as a tuple if a call takes tuples, such as the sizes of Stable Diffusion XL."""
    return tuple(value) if isinstance(value, list) and "tuple" in str(annotation).lower() else value


def pad_texts(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of a call with the longest text before each text."""

    def precede(texts: Any) -> Any:
        return [LONGEST, *(texts if isinstance(texts, list) else [texts])]

    return {name: precede(each) if name in (PROMPT, NEGATIVE) else each for name, each in settings.items()}


def _is_off(weight: Any) -> bool:
    """Return True for a weight with which a call evaluates no unconditional branch."""
    return isinstance(weight, int | float) and weight <= 1


def _batches(
    takes: Mapping[str, Any],
    usual: Mapping[str, Any],
    texts: Mapping[str, str],
    others: Mapping[str, Any],
    labels: Mapping[str, Any],
) -> Iterator[Mapping[str, Any]]:
    """Yield call arguments that give two samples: first with two labels or two prompts, then with two prompts and two
    images, then with one prompt and an argument such as num_images_per_prompt."""
    prompts: dict[str, Any] = {each: [usual[each], other] for each, other in texts.items()}
    pictures = {name: _join(usual[name], other) for name, other in others.items()}
    yield from (each for each in (labels, prompts, {**prompts, **pictures}) if each)
    yield from ({name: 2} for name in PER_PROMPT if name in takes)


def _variants(takes: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    variants: dict[str, dict[str, Any]] = {}
    if PROMPT in takes:
        texts = {PROMPT: PROMPTS[1], LENGTH: LONGER, SHORTNESS: SHORT}
        variants |= {name: {PROMPT: put_text(usual[PROMPT], text)} for name, text in texts.items()}
    if NEGATIVE in takes:
        variants[OTHER] = {NEGATIVE: OTHERS[1]}
        variants[OTHER_SHORTNESS] = {NEGATIVE: ""}
    for each in (*GUIDANCES, *SCALES):
        default = usual.get(each, takes[each].default if each in takes else None)
        if isinstance(default, int | float) and not isinstance(default, bool):
            variants[each] = {each: default + CHANGE}
    if STEP_COUNT in takes:
        variants[STEP_NUMBER] = {STEP_COUNT: int(usual[STEP_COUNT]) + 2}
    return variants
