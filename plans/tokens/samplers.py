"""Samplers of masked denoisers by their names in plans: `sampler(shape, steps, *, parameters)` returns the steps.

`shape` is that of a sample, [T] or [codebooks, T]. Each function is the table of one released sampler. Its counts are
integers, and tests compare them with the authors' rule. Everything that is specific to a network is part of the
exported module: its use of the time, a shift of its logits, prompts before or after the sample. All samplers exclude
the mask id before they compute probabilities, and ties go to the lowest position.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np

from fewstep.plans.errors import UserError
from fewstep.plans.tokens.plan import Score, TokenStep

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TokenPlanName:
    """A parsed name of a token plan. `sampler` is the function with its parameters bound, and `text` the name in
    canonical form."""

    text: str
    sampler: Callable[[Shape, int], tuple[TokenStep, ...]]
    steps: int


def split_evenly(count: int, steps: int) -> list[int]:
    """Split the count over the steps. If it does not divide, the first steps get one more."""
    each, more = divmod(count, steps)
    return [each + (number < more) for number in range(steps)]


def maskgit(
    shape: Shape, steps: int, *, noise: float = 2.0, temperature: float = 1.0, linear: bool = False
) -> tuple[TokenStep, ...]:
    """MaskGIT (Chang et al. 2022, arXiv 2202.04200) as aMUSEd runs it (Patil et al. 2024, arXiv 2401.01808; diffusers'
    `AmusedScheduler`): floor(n cos(pi/2 (i+1)/N)) positions remain masked, at least one and fewer than before. The
    score of a position is that of the drawn token, and its noise decreases linearly to 0. With `linear` the masked
    fraction decreases linearly. Fractions are float32 and tokens are drawn at temperature 1, as in both papers'
    code."""
    count, opened, plan = math.prod(shape), math.prod(shape), []
    for number in range(1, steps + 1):
        ratio = np.float32(number) / np.float32(steps)
        share = 1 - ratio if linear else np.float32(math.cos(ratio * np.float32(math.pi) / 2))
        left = 0 if number == steps else max(1, min(opened - 1, math.floor(np.float32(count) * share)))
        level = noise * (steps - number) / (steps - 1) if steps > 1 else noise
        plan.append(TokenStep(reveal=max(opened - left, 0), score="drawn", noise=level, temperature=temperature))
        opened = min(left, opened)
    return _drop_idle_steps(plan)


def llada(shape: Shape, steps: int, *, size: int | None = None) -> tuple[TokenStep, ...]:
    """LLaDA (Nie et al. 2025, arXiv 2502.09992), low-confidence remasking at temperature 0: n // N positions per step,
    and one more in the first n % N steps, most likely first. With `size`, in consecutive blocks of this size."""
    return _block_steps(shape, steps, size, TokenStep(score="drawn", temperature=0.0))


def first_hitting(shape: Shape, steps: int) -> tuple[TokenStep, ...]:
    """The First-Hitting Sampler (Zheng et al. 2024, arXiv 2409.02908): the next position that ancestral sampling
    reveals is equally likely to be any open one. With one step per position it has the distribution of ancestral
    sampling in float64. With fewer steps, several positions share an evaluation (section 4.2). The times of the hits
    are random, so networks that take a time are refused."""
    return _block_steps(shape, steps, None, TokenStep(score="random"))


def likeliest(shape: Shape, steps: int, *, temperature: float = 1.0) -> tuple[TokenStep, ...]:
    """Reveal the same number of positions per step, those with the highest maximum token probability first. The order
    does not depend on the drawn tokens, so one position per step gives the network's own distribution. Ordering by the
    probability of the drawn tokens instead would effectively lower the temperature."""
    return _block_steps(shape, steps, None, TokenStep(score="probability", temperature=temperature))


def dream_entropy(shape: Shape, steps: int, *, temperature: float = 0.2) -> tuple[TokenStep, ...]:
    """Dream (Ye et al. 2025, arXiv 2508.15487), algorithm "entropy"."""
    return _dream(shape, steps, "entropy", temperature)


def dream_margin(shape: Shape, steps: int, *, temperature: float = 0.2) -> tuple[TokenStep, ...]:
    """Dream, algorithm "topk_margin"."""
    return _dream(shape, steps, "margin", temperature)


def dream_maskgit(shape: Shape, steps: int, *, temperature: float = 0.2) -> tuple[TokenStep, ...]:
    """Dream, algorithm "maskgit_plus": ordered by the probability of the candidate."""
    return _dream(shape, steps, "drawn", temperature)


def _dream(shape: Shape, steps: int, score: Score, temperature: float) -> tuple[TokenStep, ...]:
    """Reveal int(masked * (1 - s/t)) positions per step, with evenly spaced times from 1 to 0.001, and all remaining
    positions in the last step."""
    opened, plan = math.prod(shape), []
    times = [1 - 0.999 * number / steps for number in range(steps + 1)]
    for number, (t, s) in enumerate(pairwise(times), 1):
        count = opened if number == steps else int(opened * (1 - s / t))
        plan.append(TokenStep(reveal=count, score=score, temperature=temperature))
        opened -= count
    return _drop_idle_steps(plan)


def mdlm(shape: Shape, steps: int) -> tuple[TokenStep, ...]:
    """Ancestral sampling of MDLM (Sahoo et al. 2024, arXiv 2406.07524) on its log-linear schedule: each masked position
    is revealed with probability (t - s) / t over evenly spaced times from 1 to 0. (The authors end at 1e-5 and take the
    most likely token there.) A network without a time input is not evaluated again if nothing was revealed, as in their
    `ddpm_cache`."""
    return tuple(TokenStep(chance=1 / (steps - number)) for number in range(steps))


def remdm(shape: Shape, steps: int, *, cap: float = 0.1) -> tuple[TokenStep, ...]:
    """ReMDM-cap (Wang et al. 2025, arXiv 2503.00307): revealed tokens are masked again with probability min(cap, (1 -
    alpha_s) / alpha_t), and masked positions are revealed at a rate that keeps the masked fraction of ancestral
    sampling."""
    if not 0 <= cap <= 1:
        raise UserError(f"remdm(cap={cap:g}) is out of range", "give a probability from 0 to 1")
    plan = []
    for number in range(steps):
        alpha, then = number / steps, (number + 1) / steps
        again = min(cap, (1 - then) / alpha) if alpha else 0.0
        plan.append(TokenStep(chance=min((then - (1 - again) * alpha) / (1 - alpha), 1.0), again=again))
    return tuple(plan)


def block_dynamic(
    shape: Shape, steps: int, *, size: int = 32, threshold: float = 0.9, temperature: float = 1.0
) -> tuple[TokenStep, ...]:
    """The dynamic sampler of TraDo and SDAR (Wang et al. 2025, arXiv 2509.06949), also of Fast-dLLM: a step reveals all
    candidates of its block above a probability, and at least as many as equal steps would. A block that finishes early
    needs no more evaluations."""
    return _block_steps(shape, steps, size, TokenStep(score="drawn", threshold=threshold), temperature)


def block_entropy(
    shape: Shape, steps: int, *, size: int = 32, bound: float = 0.1, temperature: float = 1.0
) -> tuple[TokenStep, ...]:
    """The sampler "entropy_bounded" of TraDo's code (Ben-Hamu et al. 2025, arXiv 2505.24857): a step reveals the
    positions of its block with the lowest entropies, as long as these sum to less than `bound` nats. It reveals at
    least as many as equal steps would."""
    return _block_steps(shape, steps, size, TokenStep(score="entropy", bound=bound), temperature)


def omnivoice(
    shape: Shape, steps: int, *, shift: float = 0.1, noise: float = 5.0, penalty: float = 5.0
) -> tuple[TokenStep, ...]:
    """OmniVoice (k2-fsa 2026, arXiv 2604.00688): ceil(n (t' - t)) positions per step over t = s u / (1 + (s - 1) u),
    and the rest at the end. Tokens are the most likely ones, ordered by log-probability minus `penalty` for each
    codebook, with noise of temperature `noise`."""
    if not shift > 0:
        raise UserError(f"omnivoice(shift={shift:g}) is out of range", "give a shift above 0")
    count, opened, plan = math.prod(shape), math.prod(shape), []
    times = [shift * u / (1 + (shift - 1) * u) for u in (number / steps for number in range(steps + 1))]
    for number, (t, then) in enumerate(pairwise(times), 1):
        shown = opened if number == steps else min(math.ceil(count * (then - t)), opened)
        plan.append(TokenStep(reveal=shown, temperature=0.0, noise=noise, penalty=penalty))
        opened -= shown
    return _drop_idle_steps(plan)


def _block_steps(
    shape: Shape, steps: int, size: int | None, step: TokenStep, temperature: float | None = None
) -> tuple[TokenStep, ...]:
    """Split the count evenly in blocks of `size` along the last axis (None: one block), with equal numbers of steps."""
    length, rows = shape[-1], math.prod(shape[:-1])
    size = length if size is None else size
    if size < 1:
        raise UserError(f"blocks cannot have {size} positions", "give a size of at least 1")
    blocks = -(-length // size)
    if steps % blocks:
        what = f"{steps} steps over {blocks} blocks of {length} positions do not divide evenly"
        raise UserError(what, f"give a multiple of {blocks} steps")
    if temperature is not None:
        step = msgspec.structs.replace(step, temperature=temperature)
    plan = []
    for first in range(0, length, size):
        last = min(first + size, length)
        place = None if blocks == 1 else (first, last)
        counts = split_evenly(rows * (last - first), steps // blocks)
        plan += [msgspec.structs.replace(step, reveal=count, positions=place) for count in counts]
    return _drop_idle_steps(plan)


def _drop_idle_steps(plan: list[TokenStep]) -> tuple[TokenStep, ...]:
    """Return the steps that reveal a position. With fewer positions than steps, some reveal none."""
    return tuple(step for step in plan if step.reveal)


__all__ = [
    "block_dynamic",
    "block_entropy",
    "dream_entropy",
    "dream_margin",
    "dream_maskgit",
    "first_hitting",
    "likeliest",
    "llada",
    "maskgit",
    "mdlm",
    "omnivoice",
    "remdm",
]
ALIASES: dict[str, str] = {}
