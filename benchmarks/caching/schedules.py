"""Which tensors a step takes instead of computing them, as published methods choose: masks [steps, tensors]."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.caching.cached import Mask

Floats = NDArray[np.floating]
PROFILED, BACKGROUND = (6, 6), 0.6  # ProfilingDiT's first step and interval of 50; its share of blocks, on Wan 2.1
UNITED = 3  # BAC's blocks that are united with those behind them
POPULATION, GENERATIONS = 12, 8  # ECAD has 72 and 50 or more


def every(steps: int, interval: int) -> Mask:
    """DeepCache's: a full step, then shallow ones up to the next multiple [steps, 1]."""
    return np.arange(steps)[:, None] % interval > 0


def updates(costs: Floats, count: int) -> list[int]:
    """The `count` steps that compute a tensor, such that what others lose by taking it is least in sum.

    costs: [steps, steps], of step k that takes what step i < k computed, in row i. Dynamic programming, as CacheQuant
    has it (Liu et al. 2025, arXiv 2503.01323) and BAC (Ji et al. 2025, arXiv 2506.13456, its adaptive scheduler).
    """
    steps = len(costs)
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, (0,))}  # by the last of them
    for place in range(1, count):
        best = {
            last: min(
                (cost + costs[i, i + 1 : last].sum(), (*chosen, last)) for i, (cost, chosen) in best.items() if i < last
            )
            for last in range(place, steps)
        }
    return list(min((cost + costs[i, i + 1 :].sum(), chosen) for i, (cost, chosen) in best.items())[1])


def by_drift(written: Sequence[Floats], count: int) -> Mask:
    """CacheQuant's: full steps from which features drift least, in L1 [steps, 1]. written: features of each step."""
    costs = np.array([[np.abs(one - other).mean() for other in written] for one in written])
    return ~np.isin(np.arange(len(written)), updates(costs, count))[:, None]


def by_block(written: Sequence[Sequence[Floats]], count: int, is_wide: Sequence[bool]) -> Mask:
    """BAC's: each block is computed at `count` steps of its own, where it is most similar to the steps between, by
    cosine. Then the perceptrons that change most are also computed wherever one behind them is (its bubbling union).

    written: by tensor, of each step. is_wide: which are perceptrons.
    """
    chosen = []
    for tensors in written:
        rows = np.stack([each.reshape(len(each), -1) for each in tensors]).astype(np.float64)
        rows /= np.maximum(np.linalg.norm(rows, axis=2, keepdims=True), 1e-12)
        chosen.append({*updates(1 - np.einsum("ibn,kbn->ik", rows, rows) / rows.shape[1], count)})
    wide = [place for place, each in enumerate(is_wide) if each]
    volatile = {
        place: np.mean([np.abs(a - b).mean() for a in written[place] for b in written[place]]) for place in wide
    }
    for place in sorted(sorted(wide, key=lambda each: -volatile[each])[:UNITED], reverse=True):
        chosen[place] = chosen[place].union(*(chosen[other] for other in wide if other > place))
    return np.array([[step not in own for own in chosen] for step in range(len(written[0]))])


def by_profile(steps: int, attention: Sequence[float]) -> Mask:
    """ProfilingDiT's: blocks whose attention goes most to the background are taken, but for the first steps and each
    sixth from there on (Ma et al. 2025, arXiv 2504.03140; the steps of its code, scaled to `steps` of 50).

    attention: share on the background, by block of two tensors.
    """
    first, interval = max(2, round(PROFILED[0] * steps / 50)), max(2, round(PROFILED[1] * steps / 50))
    blocks = np.argsort(attention)[::-1][: round(BACKGROUND * len(attention))]
    is_light = [index > first and (index - first) % interval > 0 for index in range(steps)]
    return np.outer(is_light, np.repeat(np.isin(np.arange(len(attention)), blocks), 2)).astype(bool)


def evolved(steps: int, tensors: int, judge: Callable[[Mask], float], cost: Callable[[Mask], float]) -> list[Mask]:
    """ECAD's kind: masks on the front of quality and cost, by a genetic search (Aggarwal et al. 2025, arXiv
    2506.15682). Its first population has uniform masks and random ones; parents are of the front; children cross over
    step by step, and flip bits."""
    rng = np.random.default_rng(0)
    uniform = [np.repeat(every(steps, interval), tensors, axis=1) for interval in (2, 3)]
    halves = [each & (np.arange(tensors) % 2 == side) for each in uniform[:1] for side in (0, 1)]
    masks = [np.zeros((steps, tensors), bool), *uniform, *halves]
    masks += [rng.random((steps, tensors)) < rng.uniform(0.1, 0.8) for _ in range(POPULATION - len(masks))]
    pool: dict[bytes, tuple[Mask, float, float]] = {}

    def front() -> list[tuple[Mask, float, float]]:
        return [one for one in pool.values() if not any(q >= one[1] and c < one[2] for _, q, c in pool.values())]

    for _ in range(GENERATIONS):
        for mask in masks:
            mask[0] = False
            if mask.tobytes() not in pool:
                pool[mask.tobytes()] = mask, judge(mask), cost(mask)
        parents, masks = [mask for mask, *_ in front()], []
        for _ in range(POPULATION):
            one, other = (parents[rng.integers(len(parents))] for _ in range(2))
            child = np.where(rng.random((steps, 1)) < 0.5, one, other)
            masks.append(child ^ (rng.random(child.shape) < 3 / child.size))
    return [mask for mask, *_ in sorted(front(), key=lambda each: each[2])]


def corrections(written: Sequence[Floats], mask: Mask) -> Mapping[int, tuple[Floats, Floats]]:
    """Scale and shift [C, 1, 1] by channel that lead best from the features that are held to a step's own."""
    numbers, held = {}, written[0]
    for index, (own, is_shallow) in enumerate(zip(written, mask[:, 0], strict=True)):
        if not is_shallow:
            held = own
            continue
        x, y = (each.astype(np.float64).transpose(1, 0, 2, 3).reshape(each.shape[1], -1) for each in (held, own))
        scale = ((x - x.mean(1, keepdims=True)) * y).mean(1) / np.maximum(x.var(1), 1e-12)
        numbers[index] = tuple(each[:, None, None] for each in (scale, y.mean(1) - scale * x.mean(1)))
    return numbers
