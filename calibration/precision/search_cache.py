"""What a search has measured, in the user's cache: an interrupted one goes on, and another bound asks for what is new.

It is kept under the hash of everything that the figures follow from, the machine included, whose times they are.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from math import isfinite

import msgspec
import numpy as np
import onnxruntime

from fewstep.calibration.precision.search import Choice, JudgedQuality
from fewstep.calibration.precision.variants import Variants
from fewstep.graph.digest import digest
from fewstep.measure.rollouts.closed_loop import Course
from fewstep.measure.workers.code_digest import code
from fewstep.plans.file import encode
from fewstep.runtime.machine import cache
from fewstep.runtime.machine.cpu import this_cpu

LOG = logging.getLogger("fewstep")
SCHEMA = 5


class Figures(msgspec.Struct):
    """As `Sensitivity` and `Point` have them: all int8's quality and float32's time; of each operation its gains by
    group, and its cost as it was measured; of each choice its quality; of each that was judged what was found there; of
    each set of operations in float the time of a step with its graph, relative to all int8."""

    overall: tuple[float, float] | None = None
    gains: dict[str, tuple[float, ...]] = msgspec.field(default_factory=dict)
    costs: dict[str, float] = msgspec.field(default_factory=dict)
    choices: dict[str, float] = msgspec.field(default_factory=dict)
    judged: dict[str, JudgedQuality] = msgspec.field(default_factory=dict)
    times: dict[str, float] = msgspec.field(default_factory=dict)


@dataclass
class SearchCache:
    """The figures of one search so far; without a name they are kept nowhere. Made by `kept_of`."""

    name: str | None = None
    figures: Figures = field(default_factory=Figures)

    def save(self) -> None:
        if self.name is not None:
            cache.store("precision", self.name, msgspec.json.encode(_finite(self.figures)))


def kept_of(variants: Variants, course: Course, judges: Sequence[Course], threads: int = 0) -> SearchCache:
    """What earlier searches of these variants along these courses have measured on this machine, with so many threads
    of a choice (0: one for each core); a file that cannot be
    read is no file."""
    sha = sha256(repr((SCHEMA, onnxruntime.__version__, this_cpu(), threads)).encode())
    sha.update(code())
    sha.update(digest(variants.graph()))
    sha.update(encode(course.plan))
    sha.update(repr((course.network, course.others)).encode())
    for each in (course, *judges):
        for array in each.reference[-1].after:  # which seeds, conditions and float denoiser make
            sha.update(np.ascontiguousarray(array).data)
    name = f"{sha.hexdigest()[:32]}.json"
    content = cache.read("precision", name)
    try:
        figures = Figures() if content is None else _decode(content, course.groups)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        LOG.warning("what an earlier search of a precision map left cannot be read (%s): it starts anew", error)
        figures = Figures()
    if figures.gains:
        LOG.warning(
            "of %d operations %d were measured before on this machine, %d of them timed, and are not again; to measure "
            "anew, remove %s",
            *(len(variants.operations), len(figures.gains), len(figures.costs), cache.path("precision", name)),
        )
    return SearchCache(name, figures)


def key(choice: Choice) -> str:
    """A choice as text: the numbers of the operations in float, group by group."""
    return ";".join(",".join(map(str, sorted(floats))) for floats in choice)


def _decode(content: bytes, groups: int) -> Figures:
    figures = msgspec.json.decode(content, type=Figures)
    if any(len(gains) != groups for gains in figures.gains.values()):
        raise msgspec.ValidationError("gains of other groups")
    return figures


def _finite(figures: Figures) -> Figures:
    """Those that JSON has: a NaN would be written as null, and nothing of the file could be read again."""
    return Figures(
        figures.overall if figures.overall and all(map(isfinite, figures.overall)) else None,
        {name: gains for name, gains in figures.gains.items() if all(map(isfinite, gains))},
        {name: cost for name, cost in figures.costs.items() if isfinite(cost)},
        {choice: quality for choice, quality in figures.choices.items() if isfinite(quality)},
        {choice: each for choice, each in figures.judged.items() if isfinite(each.quality) and isfinite(each.error)},
        {floats: time for floats, time in figures.times.items() if isfinite(time)},
    )
