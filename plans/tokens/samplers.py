"""Samplers of masked denoisers by their names in plans: `sampler(shape, steps, *, parameters)` -> the steps.

`shape` is of a sample, [T] or [codebooks, T]. Each is the table of one released sampler; its counts are integers, and
tests compare them with the authors' rule. What a network makes of a time, of a shift of its logits, of prompts behind
or in front, is the network's own and belongs into the exported module. In all of them the mask id is left out before
probabilities are made, and ties go to the lowest position.
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
    """A parsed name of a token plan. `sampler` has its parameters bound, `text` is the canonical form."""

    text: str
    sampler: Callable[[Shape, int], tuple[TokenStep, ...]]
    steps: int


def split_evenly(count: int, steps: int) -> list[int]:
    """The count over the steps, the first ones with one more where it does not divide."""
    each, more = divmod(count, steps)
    return [each + (number < more) for number in range(steps)]


def maskgit(
    shape: Shape, steps: int, *, noise: float = 2.0, temperature: float = 1.0, linear: bool = False
) -> tuple[TokenStep, ...]:
    """MaskGIT (Chang et al. 2022, arXiv 2202.04200) as aMUSEd runs it (Patil et al. 2024, arXiv 2401.01808; diffusers'
    `AmusedScheduler`): floor(n cos(pi/2 (i+1)/N)) stay open, at least one and fewer than before. The score is of the
    candidate, its noise falls linearly to 0. `linear`: the share falls linearly. Shares are float32, as theirs.
    Candidates of both have temperature 1."""
    count, opened, plan = math.prod(shape), math.prod(shape), []
    for number in range(1, steps + 1):
        ratio = np.float32(number) / np.float32(steps)
        share = 1 - ratio if linear else np.float32(math.cos(ratio * np.float32(math.pi) / 2))
        left = 0 if number == steps else max(1, min(opened - 1, math.floor(np.float32(count) * share)))
        own = noise * (steps - number) / (steps - 1) if steps > 1 else noise
        plan.append(TokenStep(reveal=max(opened - left, 0), score="drawn", noise=own, temperature=temperature))
        opened = min(left, opened)
    return _drop_idle_steps(plan)


def llada(shape: Shape, steps: int, *, size: int | None = None) -> tuple[TokenStep, ...]:
    """LLaDA (Nie et al. 2025, arXiv 2502.09992), low-confidence remasking at temperature 0: n // N positions a step,
    the first n % N steps one more, the likeliest first; in blocks of a size, one after the other."""
    return _block_steps(shape, steps, size, TokenStep(score="drawn", temperature=0.0))


def first_hitting(shape: Shape, steps: int) -> tuple[TokenStep, ...]:
    """The First-Hitting Sampler (Zheng et al. 2024, arXiv 2409.02908): the next position that ancestral sampling would
    reveal is any of the open ones. With a step for each position it has the law of ancestral sampling, in float64; with
    fewer, several share an evaluation (section 4.2). The times of the hits are random, and a network that is told none
    needs none: others are refused."""
    return _block_steps(shape, steps, None, TokenStep(score="random"))


def likeliest(shape: Shape, steps: int, *, temperature: float = 1.0) -> tuple[TokenStep, ...]:
    """As many positions a step, where the likeliest token is likeliest. The order does not read what is drawn, so that
    one position a step gives the network's own law; an order by the candidates lowers the temperature."""
    return _block_steps(shape, steps, None, TokenStep(score="probability", temperature=temperature))


def dream_entropy(shape: Shape, steps: int, *, temperature: float = 0.2) -> tuple[TokenStep, ...]:
    """Dream (Ye et al. 2025, arXiv 2508.15487), algorithm "entropy"."""
    return _dream(shape, steps, "entropy", temperature)


def dream_margin(shape: Shape, steps: int, *, temperature: float = 0.2) -> tuple[TokenStep, ...]:
    """Dream, algorithm "topk_margin"."""
    return _dream(shape, steps, "margin", temperature)


def dream_maskgit(shape: Shape, steps: int, *, temperature: float = 0.2) -> tuple[TokenStep, ...]:
    """Dream, algorithm "maskgit_plus": by the probability of the candidate."""
    return _dream(shape, steps, "drawn", temperature)


def _dream(shape: Shape, steps: int, score: Score, temperature: float) -> tuple[TokenStep, ...]:
    """int(open (1 - s/t)) over even times from 1 to 0.001, and all that are left at the end."""
    opened, plan = math.prod(shape), []
    times = [1 - 0.999 * number / steps for number in range(steps + 1)]
    for number, (t, s) in enumerate(pairwise(times), 1):
        count = opened if number == steps else int(opened * (1 - s / t))
        plan.append(TokenStep(reveal=count, score=score, temperature=temperature))
        opened -= count
    return _drop_idle_steps(plan)


def mdlm(shape: Shape, steps: int) -> tuple[TokenStep, ...]:
    """Ancestral sampling of MDLM (Sahoo et al. 2024, arXiv 2406.07524) on its log-linear schedule: each open position
    with the chance (t - s) / t over even times to 0. (The authors end at 1e-5 and take the likeliest token there.) A
    network that is told no time is not evaluated again where nothing was revealed, as in their `ddpm_cache`."""
    return tuple(TokenStep(chance=1 / (steps - number)) for number in range(steps))


def remdm(shape: Shape, steps: int, *, cap: float = 0.1) -> tuple[TokenStep, ...]:
    """ReMDM-cap (Wang et al. 2025, arXiv 2503.00307): tokens become open again with the chance
    min(cap, (1 - alpha_s) / alpha_t), and open positions are revealed so that shares stay as ancestral sampling has
    them."""
    if not 0 <= cap <= 1:
        raise UserError(f"remdm(cap={cap:g})", "give a chance from 0 to 1")
    plan = []
    for number in range(steps):
        alpha, then = number / steps, (number + 1) / steps
        again = min(cap, (1 - then) / alpha) if alpha else 0.0
        plan.append(TokenStep(chance=min((then - (1 - again) * alpha) / (1 - alpha), 1.0), again=again))
    return tuple(plan)


def block_dynamic(
    shape: Shape, steps: int, *, size: int = 32, threshold: float = 0.9, temperature: float = 1.0
) -> tuple[TokenStep, ...]:
    """The dynamic sampler of TraDo and SDAR (Wang et al. 2025, arXiv 2509.06949), also of Fast-dLLM: in each block all
    candidates above a probability, and at least as many as even steps would. A block that is done early costs no more
    evaluations."""
    return _block_steps(shape, steps, size, TokenStep(score="drawn", threshold=threshold), temperature)


def block_entropy(
    shape: Shape, steps: int, *, size: int = 32, bound: float = 0.1, temperature: float = 1.0
) -> tuple[TokenStep, ...]:
    """The sampler "entropy_bounded" of TraDo's code (Ben-Hamu et al. 2025, arXiv 2505.24857): in each block the surest
    positions, as many as their entropies in nats sum to less than the bound. Steps that are too few for that reveal
    evenly."""
    return _block_steps(shape, steps, size, TokenStep(score="entropy", bound=bound), temperature)


def omnivoice(
    shape: Shape, steps: int, *, shift: float = 0.1, noise: float = 5.0, penalty: float = 5.0
) -> tuple[TokenStep, ...]:
    """OmniVoice (k2-fsa 2026, arXiv 2604.00688): ceil(n (t' - t)) positions over t = s u / (1 + (s - 1) u), the rest at
    the end; likeliest tokens, ordered by their log-probability less 5 for each codebook, with noise of temperature
    5."""
    if not shift > 0:
        raise UserError(f"omnivoice(shift={shift:g})", "give a shift above 0")
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
    """Even counts in blocks of a size along the last axis (None: one), each with as many steps."""
    length, rows = shape[-1], math.prod(shape[:-1])
    size = length if size is None else size
    if size < 1:
        raise UserError(f"blocks of {size} positions", "give a size of at least 1")
    blocks = -(-length // size)
    if steps % blocks:
        raise UserError(f"{steps} steps over {blocks} blocks of {length} positions", "give a multiple of the blocks")
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
    """The steps that reveal something: a table for fewer positions than steps has others."""
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
