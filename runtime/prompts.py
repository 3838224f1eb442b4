"""Encode prompts as conditions with the text encoder of a bundle."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import lcm
from types import MappingProxyType
from typing import Any

from fewstep.plans.errors import UserError
from fewstep.runtime.arrays import Arrays
from fewstep.runtime.backends import CompanionEngine
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.machine.memory_pages import release_free_memory
from fewstep.runtime.text import TextEncoder, open_text_encoder

Values = Mapping[str, Sequence[Any]]  # condition -> its values, which the samples take in turn


def add_prompt_conditions(
    bundle: Bundle,
    values: Values,
    prompts: Sequence[str],
    negative: Sequence[str] = (),
    threads: int = 0,
    engine: CompanionEngine | None = None,
) -> tuple[Values, Values]:
    """Add the conditions that prompts encode to `values`. Returns them, and the conditions of the branch "uncond".

    values: a list of values for each condition. If there are fewer values than samples, they are used in turn.
    prompts: what the samples should show, as text.
    negative: what they should not show, as text.
    engine: see `load_text_encoder`.

    Raises UserError if the bundle needs prompts and gets none, and for a condition that is given twice.
    """
    described = bundle.manifest.text
    worded = set() if described is None else {tensor.name for tensor in described.graph.outputs}
    if not prompts and not worded <= set(values):
        raise UserError(f"{bundle.path} needs a prompt", 'give one: --prompt "..."')
    if not prompts and not negative:
        return values, {}
    text = open_text_encoder(bundle, threads, engine=engine)
    read = {name: values.get(name, ()) for name in text.reads}
    positive = encode_rows(text, prompts, text.encode, read) if prompts else {}
    twice = sorted(set(positive) & set(values))
    if twice:
        raise UserError(f"condition {twice[0]!r} is given twice: the prompts set it too", "give it once")
    away_from = _encode_negative(text, prompts, negative, read) if negative else {}
    del text
    release_free_memory()  # before the denoiser needs it
    values, away = {**values, **positive}, {f"negative_{name}": rows for name, rows in away_from.items()}
    if not away.keys() & {condition.name for condition in bundle.manifest.conditions}:
        return values, away_from
    if not any(values.get("negative_scale", ())):  # it is used inside attention, at this scale
        raise UserError("a negative prompt has no effect at negative_scale 0", "give a scale: -c negative_scale=0.2")
    return {**away, **values}, {}


def encode_rows(
    text: TextEncoder, prompts: Sequence[str], encode: Callable[..., Arrays], read: Values = MappingProxyType({})
) -> dict[str, list[Any]]:
    """Return the rows of each condition. Prompts whose conditions may differ in length are encoded one by one. `read`
    has the values of the conditions that the text encoder reads: there is then a row for each sample until prompts and
    values recur."""
    prompts, read = _in_turn(prompts, read)
    rows = range(len(prompts))
    parts = []
    for group in [[row] for row in rows] if text.has_lengths else [[*rows]]:
        own = {name: [value[row] for row in group] for name, value in read.items()}
        parts.append(encode([prompts[row] for row in group], **({"conditions": own} if own else {})))
    return {name: [row for part in parts for row in part[name]] for name in parts[0]}


def _in_turn(prompts: Sequence[str], read: Values) -> tuple[list[str], Values]:
    """Return prompts and values of conditions in as many rows as it takes until all recur."""
    given = {name: own for name, own in read.items() if len(own)}
    count = lcm(len(prompts), *map(len, given.values()))
    repeated = {name: [own[row % len(own)] for row in range(count)] for name, own in given.items()}
    return [prompts[row % len(prompts)] for row in range(count)], repeated


def _encode_negative(
    text: TextEncoder, prompts: Sequence[str], negative: Sequence[str], read: Values
) -> dict[str, list[Any]]:
    """Return the rows of negative prompts. If they have the length of their prompts, there is one for each sample until
    both recur."""
    if not text.has_lengths or not prompts:
        return encode_rows(text, negative, text.encode_negative, read)
    given = {name: values for name, values in read.items() if len(values)}
    parts = []
    for row in range(lcm(len(negative), len(prompts), *map(len, given.values()))):
        encode = partial(text.encode_negative, of=[prompts[row % len(prompts)]])
        own = {name: [values[row % len(values)]] for name, values in given.items()}
        parts.append(encode_rows(text, [negative[row % len(negative)]], encode, own))
    return {name: [row for part in parts for row in part[name]] for name in parts[0]}
