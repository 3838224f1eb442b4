"""Prompts become conditions, by the text encoder of a bundle."""

from collections.abc import Mapping, Sequence
from typing import Any

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.text import load_text_encoder

Values = Mapping[str, Sequence[Any]]  # of each condition; the samples take them in turn


def add_prompt_conditions(
    bundle: Bundle, values: Values, prompts: Sequence[str], negative: Sequence[str] = (), threads: int = 0
) -> tuple[Values, Values]:
    """The conditions of samples with those that prompts are, and the conditions of the branch "uncond".

    values: of each condition, taken in turn by the samples. prompts: what to show, in words. negative: what to lead
    away from. UserError for a bundle that takes words and gets none, and for a condition that is given twice.
    """
    described = bundle.manifest.text
    worded = set() if described is None else {tensor.name for tensor in described.graph.outputs}
    if not prompts and not worded <= set(values):
        raise UserError(f"{bundle.path} takes in words what to show", 'say what: --prompt "..."')
    if not prompts and not negative:
        return values, {}
    text = load_text_encoder(bundle, threads)
    positive = {name: list(rows) for name, rows in text.encode(prompts).items()} if prompts else {}
    twice = sorted(set(positive) & set(values))
    if twice:
        raise UserError(f"condition {twice[0]!r} is given, and the prompts set it too", "leave one of them out")
    away_from = text.encode(negative) if negative else {}
    values, away = {**values, **positive}, {f"negative_{name}": list(rows) for name, rows in away_from.items()}
    if not away.keys() & {condition.name for condition in bundle.manifest.conditions}:
        return values, {name: list(rows) for name, rows in away_from.items()}
    if not any(values.get("negative_scale", ())):  # it leads away inside of attention
        raise UserError("a negative prompt has no effect at negative_scale 0", "give a scale: -c negative_scale=0.2")
    return {**away, **values}, {}
