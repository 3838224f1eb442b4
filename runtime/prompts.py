"""Encode prompts as conditions with the text encoder of a bundle."""

from collections.abc import Callable, Mapping, Sequence
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
    worded = frozenset() if described is None else described.encoded
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
    of = prompts if text.has_lengths else ()
    away_from = encode_rows(text, negative, text.encode_negative, read, of) if negative else {}
    del text
    release_free_memory()  # before the denoiser needs it
    values, away = {**values, **positive}, {f"negative_{name}": rows for name, rows in away_from.items()}
    if not away.keys() & {condition.name for condition in bundle.manifest.conditions}:
        return values, away_from
    if not any(values.get("negative_scale", ())):  # it is used inside attention, at this scale
        raise UserError("a negative prompt has no effect at negative_scale 0", "give a scale: -c negative_scale=0.2")
    return {**away, **values}, {}


def encode_rows(
    text: TextEncoder,
    prompts: Sequence[str],
    encode: Callable[..., Arrays],
    read: Values = MappingProxyType({}),
    of: Sequence[str] = (),
) -> dict[str, list[Any]]:
    """Return the rows of each condition. Prompts whose conditions may differ in length are encoded one by one.

    encode: `text.encode` or `text.encode_negative`.
    read: the values of the conditions that the text encoder reads. The prompts take them in turn: there is a row for
        each sample until all recur.
    of: the prompts whose length negative ones have, also in turn.
    """
    read = {name: values for name, values in read.items() if len(values)}
    columns = [prompts, *read.values(), *([of] if of else [])]
    rows = range(lcm(*map(len, columns)))
    parts = []
    for group in [[row] for row in rows] if text.has_lengths else [rows]:
        texts, *others = ([column[row % len(column)] for row in group] for column in columns)
        own = {"of": others.pop()} if of else {}
        parts.append(encode(texts, conditions=dict(zip(read, others, strict=True)), **own))
    return {name: [row for part in parts for row in part[name]] for name in parts[0]}
