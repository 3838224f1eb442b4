"""Outcomes of episodes, by contender, task and seed."""

import hashlib
from collections.abc import Mapping

import msgspec

LOOP = 2  # raised when a delay or a fade makes the loop act otherwise: older verdicts count no more then


class Contender(msgspec.Struct, frozen=True, omit_defaults=True):
    """A policy or an expert. `weights` are the hash of a checkpoint, None for the experts (`rescuers`: those of the
    hand-overs); a delay is in ticks. `clipped` says whether each prediction is clipped to the actions' limits. The
    pictures of one that is `blind` are grey.

    Two that are equal have the same verdicts, on any machine that computes alike and has the same body of them.
    """

    name: str
    weights: str | None = None
    plan: str | None = None
    continuity: str = "hard"
    delay: int = 0
    execute: int = 8
    knocked: bool = False
    fade: int = 0
    precision: str | None = None
    rescuers: bool = False
    clipped: bool = True
    blind: bool = False

    @property
    def digest(self) -> str:
        """A hash of all but the name. Defaults count for nothing, so that a new fact leaves those of others alone."""
        facts: dict[str, object] = {"name": ""}  # two that differ in it alone have the same verdicts
        for field in msgspec.structs.fields(self)[1:]:
            if (value := getattr(self, field.name)) != field.default:
                facts[field.name] = value
        if self.delay or self.fade:
            facts["loop"] = LOOP
        return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()[:12]


class Verdict(msgspec.Struct, frozen=True):
    """An episode: the tick at which it was solved, and the route past the wall. Seam and jerk contrast are those of
    the runner's statistics, None where an episode has too few sequences. `body` is the hash of the bundle's body.
    `worst_jerk` is the largest second difference of its motions, None in verdicts from before it was measured."""

    task: str
    seed: int
    solved: int | None
    route: str | None = None
    seam: float | None = None
    jerk_contrast: float | None = None
    body: str | None = None
    worst_jerk: float | None = None


Episode = tuple[str, int]  # task and seed
Verdicts = Mapping[Episode, Verdict]
