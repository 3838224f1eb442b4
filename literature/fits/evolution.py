"""Evolutionary search as in AutoDiffusion (Li et al. 2023, arXiv 2309.10438) and S3 (Liu et al. 2023, arXiv
2312.07243). The best candidates are parents, children are mutated or crossed, and random candidates keep the population
diverse."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from fewstep.plans.errors import UserError

Candidate = TypeVar("Candidate", bound=Hashable)
Quality = Callable[[Candidate], float | None]


@dataclass(frozen=True)
class Species(Generic[Candidate]):
    """How an evolutionary search creates and changes candidates: `random` makes a new one, `changed` mutates one, and
    `crossed` combines two. If a change returns its parent, it is drawn again."""

    random: Callable[[np.random.Generator], Candidate]
    changed: Callable[[Candidate, np.random.Generator], Candidate]
    crossed: Callable[[Candidate, Candidate, np.random.Generator], Candidate]


DRAWS = 20  # attempts to make a child that was not tried before


def evolve(
    first: Sequence[Candidate],
    species: Species[Candidate],
    quality: Quality[Candidate],
    population: int = 24,
    generations: int = 6,
    seed: int = 0,
) -> Candidate:
    """Return the best of all candidates that were tried, at most population (1 + generations).

    The best fifth of a population are parents. Of the next population, one half are mutated parents, one fifth are
    crossed parents, and the rest are random. These are AutoDiffusion's shares, with 50 candidates in 10 generations.
    AutoDiffusion scores by FID and S3 by a predictor of FID; here the caller provides the score.

    Args:
        first: initial candidates, at least one of which has a quality.
        quality: the score of a candidate; higher is better. None for a candidate without finite samples.
    """
    rng = np.random.default_rng(seed)
    scores: dict[Candidate, float | None] = {}

    def try_candidate(make: Callable[[], Candidate]) -> None:
        for _ in range(DRAWS):
            if (candidate := make()) not in scores:
                scores[candidate] = quality(candidate)
                return

    def parents() -> list[Candidate]:
        scored = [(score, candidate) for candidate, score in scores.items() if score is not None]
        if not scored:
            raise UserError("no candidate has samples that are finite", "begin with another plan")
        return [candidate for _, candidate in sorted(scored, key=lambda pair: -pair[0])][: max(population // 5, 2)]

    def draw_parent() -> Candidate:
        return best[int(rng.integers(len(best)))]

    for candidate in dict.fromkeys(first):
        scores[candidate] = quality(candidate)
    for _ in range(population - len(first)):
        try_candidate(lambda: species.random(rng))
    for _ in range(generations):
        best = parents()
        for place in range(population):
            if place < population // 2:
                try_candidate(lambda: species.changed(draw_parent(), rng))
            elif place < population // 2 + population // 5:
                try_candidate(lambda: species.crossed(draw_parent(), draw_parent(), rng))
            else:
                try_candidate(lambda: species.random(rng))
    return parents()[0]
