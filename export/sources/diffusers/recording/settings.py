"""The settings of a pipeline's call for its recordings: a usual call, and calls that differ from it in one setting."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fewstep.export.sources.diffusers.recording.stand_ins import unrecorded
from fewstep.plans.errors import UserError

STEPS = 3  # of a recording, and of the run that is compared
PROMPTS = ("a red cat on a mat", "a big dog in a car")  # of equal length
OTHERS = ("dark and grainy", "cold and smudgy")  # negative prompts of equal length
SHORT = "a"
LONGER = "a photo of a very small bird that sits on the roof of an old house near the sea"
PROMPT, NEGATIVE = "prompt", "negative_prompt"
GUIDANCES = ("guidance_scale", "true_cfg_scale", "audio_guidance_scale", "embedded_guidance_scale", "guidance_scale_2")
OUTPUT, STEP_COUNT = "output_type", "num_inference_steps"


@dataclass(frozen=True)
class CallSettings:
    """`usual` is a call. `variants` are settings that replace some of it, by what they change."""

    usual: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, variant: str | None = None, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the arguments of a call."""
        return {**self.usual, **(self.variants[variant] if variant else {}), **(more or {})}


def choose_settings(pipeline: Any, given: Mapping[str, Any]) -> CallSettings:
    """Return the settings of a pipeline's recordings. `given` are arguments of its call that the user chose.

    Raises UserError for an argument that the call does not take, and for one that it needs and that is not a text.
    """
    name, takes = type(pipeline).__name__, inspect.signature(type(pipeline).__call__).parameters
    for each in given:
        if each not in takes:
            raise UserError(f"the call of {name} takes no {each!r}", f"give one of {', '.join(list(takes)[1:])}")
    usual: dict[str, Any] = {"return_dict": False} if "return_dict" in takes else {}
    usual |= {STEP_COUNT: STEPS} if STEP_COUNT in takes else {}
    usual |= {OUTPUT: "latent"} if OUTPUT in takes else {}
    prompts = [each for each in takes if each == PROMPT or _is_numbered(each, PROMPT)]
    negatives = [each for each in takes if each == NEGATIVE or _is_numbered(each, NEGATIVE)]
    if PROMPT in takes:
        usual[PROMPT] = PROMPTS[0]
    if NEGATIVE in takes:
        usual[NEGATIVE] = OTHERS[0]
    usual |= given
    needed = [
        each.name
        for each in list(takes.values())[1:]
        if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD and each.name not in usual
    ]
    if needed:
        raise unrecorded(f"the call of {name} needs {', '.join(needed)}, which a recording cannot make")
    return CallSettings(usual, _variants(takes, usual, bool(prompts), bool(negatives)))


def _variants(
    takes: Mapping[str, Any], usual: Mapping[str, Any], has_prompt: bool, has_negative: bool
) -> dict[str, Any]:
    variants: dict[str, dict[str, Any]] = {}
    if has_prompt:
        variants |= {"prompt": {PROMPT: PROMPTS[1]}, "length of the prompt": {PROMPT: LONGER}}
        variants["shortness of the prompt"] = {PROMPT: SHORT}
        negatives = {NEGATIVE: list(OTHERS)} if has_negative else {}
        variants["batch"] = {PROMPT: list(PROMPTS), **negatives}
    if has_negative:
        variants["negative prompt"] = {NEGATIVE: OTHERS[1]}
        variants["shortness of the negative prompt"] = {NEGATIVE: ""}
    for each in GUIDANCES:
        default = usual.get(each, takes[each].default if each in takes else None)
        if isinstance(default, int | float) and not isinstance(default, bool):
            variants[each] = {each: default + 0.5}
    if STEP_COUNT in takes:
        variants["number of steps"] = {STEP_COUNT: STEPS + 2}
    return variants


def _is_numbered(name: str, of: str) -> bool:
    return name.startswith(f"{of}_") and name.removeprefix(f"{of}_").isdecimal()
