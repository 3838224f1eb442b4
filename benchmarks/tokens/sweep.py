"""Numbers of `maskgit` on the int8 bodies of both denoisers: `python -m benchmarks.tokens.sweep --work DIR`.

A fit without data has many steps for a teacher. Half of the tokens of a sample are hidden, and the network says how
likely they are: four numbers a sample, the mean logarithm of the probability and the mean entropy of each codebook. FD
between these numbers of few and of many steps is what the fit lowers.
"""

from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.markdown import table, with_part
from benchmarks.options import add_work, parser_of
from benchmarks.tokens.measure import INT8, NAMES, PAGE, Judge, bundle_of, sampled
from fewstep.evaluation.distances import distance
from fewstep.fitting.blocks import FIT_SEEDS
from fewstep.lowering.bodies import open_body
from fewstep.rollouts.held_out import held_out_conditions
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampler import Sampler
from fewstep.runtime.token_planning import vocabulary_of

USUAL, CHOSEN = "maskgit:8", "maskgit(noise=4, temperature=0.8):8"
TRIED = (
    USUAL,
    "maskgit(noise=2, temperature=0.8):8",
    "maskgit(noise=2, temperature=0.6):8",
    "maskgit(noise=4, temperature=1):8",
    CHOSEN,
    "likeliest:8",
    "first_hitting:8",
)
MANY = {"fashion_tokens": "maskgit:49", "action_tokens": "likeliest:32"}
JUDGED, SAMPLES = 4000, 250  # the first seed, and how many; nothing was chosen on these
FITTED = 96  # seeds of the fit
HIDDEN = 9  # seed of the halves
TEMPERATURES, NOISES = (1.0, 0.8, 0.6), (1.0, 2.0, 4.0)
DRAWS = 50  # of the seeds, for a standard error

Floats = NDArray[np.floating]


def likelihoods(sampler: Sampler, ids: NDArray[np.int64], first: int) -> Floats:
    """The four numbers [N, 4] of samples [N, 2, T], whose seeds begin at `first`."""
    values = held_out_conditions(sampler.bundle.manifest.conditions, range(first, first + len(ids)))
    mask = vocabulary_of(sampler.bundle.manifest).mask
    half, sums = np.random.default_rng(HIDDEN).random(ids.shape) < 0.5, np.zeros((2, *ids.shape[:2]))
    for hidden, start in product((half, ~half), range(0, len(ids), 50)):
        rows = slice(start, start + 50)
        seen = np.where(hidden[rows], mask, ids[rows])
        logits = sampler.evaluate(seen, 0.0, {name: each[rows] for name, each in values.items()}).astype(np.float64)
        logs = logits - logits.max(-1, keepdims=True)
        logs -= np.log(np.exp(logs).sum(-1, keepdims=True))
        own = np.take_along_axis(logs, ids[rows, ..., None], -1)[..., 0]
        entropy = -(np.exp(logs) * logs).sum(-1)
        sums[:, rows] += [np.where(hidden[rows], each, 0).sum(2) for each in (own, entropy)]
    return np.concatenate(list(sums / ids.shape[2]), axis=1)


def kept(sampler: Sampler, plan: str, count: int, first: int) -> NDArray[np.int64]:
    """`sampled`, once: the folder of the bundle keeps it."""
    path = sampler.bundle.path.with_name(f"{sampler.bundle.path.name}-{plan.replace(' ', '')}-{first}-{count}.npy")
    if not path.exists():
        np.save(path, sampled(sampler, plan, count, first))
    ids: NDArray[np.int64] = np.load(path)
    return ids


def between(some: Floats, others: Floats) -> float:
    """FD of features in units of the others' standard deviations."""
    scale = others.std(0)
    return distance.frechet(distance.fit(some / scale), distance.fit(others / scale))


def fitted(sampler: Sampler, teacher: str) -> str:
    """The `maskgit` of 8 evaluations that is nearest to many steps by what the network says, of a grid of names."""
    first = FIT_SEEDS.start

    def said(name: str) -> Floats:
        return likelihoods(sampler, kept(sampler, name, FITTED, first), first)

    names = [f"maskgit(noise={noise:g}, temperature={each:g}):8" for each, noise in product(TEMPERATURES, NOISES)]
    taught = said(teacher)
    return min(names, key=lambda name: between(said(name), taught))


class ActionJudge:
    """FD of positions and observations to demonstrations of the same observations."""

    def __init__(self, sampler: Sampler) -> None:
        import action_tokens
        import torch
        from policy_unet1d import ROUTES, paths

        seeds = range(JUDGED, JUDGED + SAMPLES)
        self._seen = held_out_conditions(sampler.bundle.manifest.conditions, seeds)["observation"][:, 0]
        self._positions = lambda ids: action_tokens.positions(torch.from_numpy(ids)).flatten(1).numpy()
        routes = torch.tensor([ROUTES[each] for each in np.random.default_rng(3).integers(len(ROUTES), size=SAMPLES)])
        self.reference = distance.fit(self._joined(paths(torch.from_numpy(self._seen), routes).flatten(1).numpy()))

    def _joined(self, positions: Floats) -> Floats:
        return np.concatenate([positions, self._seen], axis=1)

    def features(self, ids: NDArray[np.int64]) -> Floats:
        return self._joined(self._positions(ids))


def rows_of(name: str, work: Path) -> list[list[str]]:
    sampler, teacher = open_body(open_bundle(bundle_of(work, name)), INT8, 1), MANY[name]
    judge = ActionJudge(sampler) if name == "action_tokens" else Judge()
    best = fitted(sampler, teacher)
    plans = dict.fromkeys((*TRIED, best, teacher))
    ids = {each: kept(sampler, each, SAMPLES, JUDGED) for each in plans}
    features = {each: judge.features(own) for each, own in ids.items()}
    said = {each: likelihoods(sampler, own, JUDGED) for each, own in ids.items()}
    rows, draws = [], np.random.default_rng(0).integers(SAMPLES, size=(DRAWS, SAMPLES))
    many = distance.fit(features[teacher])
    for each, own in features.items():
        far, to_many = (distance.frechet(distance.fit(own), other) for other in (judge.reference, many))
        differences = [
            distance.frechet(distance.fit(own[seeds]), judge.reference)
            - distance.frechet(distance.fit(features[USUAL][seeds]), judge.reference)
            for seeds in draws
        ]
        error = "" if each == USUAL else f"{np.std(differences, ddof=1):.2g}"
        marks = " (the fit)" * (each == best) + " (the teacher)" * (each == teacher)
        apart = ["", ""] if each == teacher else [f"{to_many:.3g}", f"{between(said[each], said[teacher]):.2g}"]
        rows.append([f"`{name}`", f"`{each}`{marks}", f"{far:.3g}", error, *apart])
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = parser_of(__doc__)
    add_work(parser, "tokens")
    work = parser.parse_args().work
    rows = [row for name in NAMES for row in rows_of(name, work)]
    head = ["denoiser", "plan, int8", "FD to data", "error", "FD to the teacher", "by likelihoods"]
    PAGE.write_text(with_part(PAGE.read_text(), "benchmarks/tokens/sweep.py", table(head, rows)))


if __name__ == "__main__":
    main()
