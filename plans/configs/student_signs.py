"""Signs that a denoiser was distilled to few steps, in names and in a scheduler's config. Such a student often comes
with the scheduler and the pipeline of its teacher, whose default steps and guidance are not its own."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fewstep.plans.configs.classes import CLASSES, is_distilled_sampler
from fewstep.plans.configs.config import is_number

WORDS = re.compile(r"turbo|lightning|schnell|klein|dmd2?|lcm|hyper|distill?(?:ed|ation)?|([1-9]|1[0-6])-?steps?")
PARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # between the words of CamelCase
SOLVERS = {"lcm": "lcm", "dmd": "renoise", "dmd2": "renoise"}  # words that name a distillation with a solver of its own
USUAL = 4  # steps of most students
KNOWN = frozenset().union(*(known.defaults for known in CLASSES.values()))  # fields that some scheduler reads


@dataclass(frozen=True)
class StudentSigns:
    """Words of names and tags that say so, the number of steps among them, and fields of its scheduler that no known
    class of schedulers reads."""

    words: tuple[str, ...]
    steps: int | None
    unread: Mapping[str, Any]

    @property
    def times(self) -> list[float] | None:
        """The times of a field that lists them, from noisy to clean."""
        listed = (value for name, value in self.unread.items() if find_words([name]) or "step" in name)
        return next((value for value in listed if _are_times(value)), None)

    @property
    def options(self) -> str:
        """Options of `fewstep run` that such a student may need."""
        if self.times is not None:
            times = ", ".join(f"{time:g}" for time in self.times)
            return f'--plan "renoise:{len(self.times)}@custom(times=[{times}])" --guidance 1'
        solver = next((SOLVERS[word] for word in self.words if word in SOLVERS), "scheduler")
        return f"--plan {solver}:{self.steps or USUAL} --guidance 1"


def find_signs(texts: Iterable[str], scheduler: Mapping[str, Any]) -> StudentSigns | None:
    """Return the signs in names and tags, and in a scheduler's config. None if there are none, or if the scheduler's
    class itself is for students."""
    unread = unread_fields(scheduler)
    words = dict.fromkeys([*find_words(texts), *find_words(unread)])
    if not words or is_distilled_sampler(scheduler):
        return None
    counts = [int(match[1]) for word in words if (match := WORDS.fullmatch(word)) is not None and match[1]]
    return StudentSigns(tuple(words), counts[0] if counts else None, unread)


def find_words(texts: Iterable[str]) -> list[str]:
    """Return the words for students in texts, in lower case: "SDXL-Turbo" has "turbo".

    FLUX.2's "klein" is one, unless a text says "klein-base", which is the teacher. Both have one class of pipelines.
    """
    split = [re.split(r"[^a-z0-9]+", PARTS.sub("-", text).lower()) for text in texts]
    is_base = any({"klein", "base"} <= set(parts) for parts in split)
    words = list[str]()
    for parts in split:
        joined = [*parts, *("-".join(pair) for pair in pairwise(parts))]  # "3-step" has two parts
        is_klein = not is_base and "pipeline" not in parts
        words += [part for part in joined if WORDS.fullmatch(part) and (part != "klein" or is_klein)]
    return words


def unread_fields(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a scheduler's config that no known class reads."""
    if scheduler.get("_class_name") not in CLASSES:
        return {}
    return {
        name: value
        for name, value in scheduler.items()
        if not name.startswith("_") and name not in KNOWN and value is not None
    }


def _are_times(value: Any) -> bool:
    is_list = isinstance(value, list) and 0 < len(value) <= 64 and all(map(is_number, value))
    return is_list and value[-1] > 0 and all(earlier > later for earlier, later in pairwise(value))
