"""Claims about systems that begin elsewhere than at white noise, or sample in parts: edits, starts, chains, windows."""

import math
from collections.abc import Mapping
from functools import cache, partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.literature.time_travel import time_travel
from fewstep.measure.rollouts.metrics import Floats
from fewstep.plans.guidance import Guidance, Residual
from fewstep.plans.plan import Plan
from fewstep.plans.transforms import tail, tail_inputs, use_given_noise
from fewstep.runtime import Hold
from fewstep.runtime.runs import Tiles, sample_tiles
from lab.claims import scores
from lab.claims.claim import GUIDED, LOG_P, SEAMS, SHIPPED, Claim, StepPair, Way, step_pair
from lab.claims.claim_ways import CFG, plain, several
from lab.claims.plan_ways import model
from lab.claims.settings import Setting, plan_of_steps


def inpaint(s: Setting, evaluations: int, again: int = 0) -> Floats:
    """Return samples whose upper half is known, from the class asked for. RePaint repeats `again` steps before the last
    three times, within the number of evaluations."""
    last = max(evaluations - 2 * again - 1, again)
    plan = s.sampler.compile(f"ddpm:{last + 1}", 1.0)
    travel = time_travel(plan, 3, between=(last - again, last)) if again else plan

    def hold_upper(part: Setting) -> Mapping[str, Any]:
        at = s.seeds.index(part.seeds.start)
        return {"hold": Hold(s.known[at : at + len(part.seeds)], upper(s), fresh=True)}

    return s.sample(travel, hold_upper)


def upper(s: Setting) -> Floats:
    mask = np.zeros_like(s.known[0])
    mask[:, : mask.shape[1] // 2] = 1
    return mask


def cyclic(s: Setting) -> Floats:
    """Cyclic one-way diffusion as in the authors' code, but without prompts: 7 + 20 + 5 evaluations."""
    (first, end, again), cycles, mask = (3, 5, 6), 10, upper(s)
    back = s.sampler.compile("ddim_inverse:10", 1.0)
    inverse = s.sampler.steps(back, s.seeds, s.who, given={"x": s.known * mask})
    kept = [state.after[0] for state in islice(inverse, 10 - first)][::-1]  # before the steps from `first` on
    noisy, gentle = (s.sampler.compile(f"ddim(eta={eta}):10", 1.0) for eta in (1.0, 0.1))
    plan = tail(time_travel(noisy, cycles, end - first, (first, end)), first)
    held = [*kept[: end - first] * cycles, *kept[end - first :], s.known]
    x = add_noise(s, noisy, end, first, kept[end - first])
    states = s.sampler.steps(plan, s.seeds, s.who, given={"row0": x}, hold=Hold(tuple(held), mask, clean=True))
    *_, state = islice(states, cycles * (end - first))
    for start, stop in ((end, again), (again, 10)):
        x = np.where(mask == 1, kept[start - first], state.after[0])
        rest = s.sampler.steps(tail(gentle, start), s.seeds, s.who, given={"row0": x})
        *_, state = islice(rest, stop - start)
    return np.asarray(state.after[0])


def add_noise(s: Setting, plan: Plan, at: int, to: int, x: Floats) -> Floats:
    """Return states before step `at` of a plan, noised to the level before step `to`."""
    here, there = plan.steps[at], plan.steps[to]
    assert here.alpha and here.sigma is not None and there.alpha is not None and there.sigma is not None
    a = there.alpha / here.alpha
    return np.asarray(a * x + math.sqrt(there.sigma**2 - (a * here.sigma) ** 2) * s.sampler.draws(s.seeds)(0))


def from_phases(s: Setting) -> Floats:
    magnitudes = np.abs(np.fft.fft2(s.sampler.draws(s.seeds)(0)))
    z = np.fft.ifft2(magnitudes * np.exp(1j * np.angle(np.fft.fft2(s.picture)))).real.astype(np.float32)
    return s.sample(use_given_noise(s.sampler.compile("ddim:10", 1.0)), given={"noise": z})


# Chosen by log p(class) on 64 seeds from 20 000 on among 1, 1.2, 1.4, 2, 3, 4 and 6, as `CFG` was for two branches
RCFG = {"fashion_mnist": 3.0, "cifar10": 1.4}


def from_picture(s: Setting, steps: float, strength: float = 0.8, guidance: Guidance | float | None = None) -> Floats:
    """Image-to-image, which also keeps the layout."""
    plan = f"ddim:{max(round(steps / strength), 1)}"

    def given_picture(part: Setting) -> Mapping[str, Any]:
        at = s.seeds.index(part.seeds.start)
        return {"given": {"image": s.picture[at : at + len(part.seeds)]}}

    return s.sample(plan, given_picture, guidance=guidance, strength=strength)


def story(s: Setting) -> Floats:
    """Return one image for the class of each seed, in 10 steps of which 4 are shared."""
    plan = s.sampler.compile("dpmpp_2m:10", 1.0)
    *_, state = islice(s.sampler.steps(plan, s.seeds[:1], {s.condition: s.labels[:1]}), 4)
    rows = {name: np.repeat(row, len(s.seeds), 0) for name, row in tail_inputs(state.after).items()}
    return np.asarray(s.sampler.sample(tail(plan, 4), [s.seeds[0]] * len(s.seeds), s.who, given=rows))


def one_noise(s: Setting, evaluations: int) -> Floats:
    return np.asarray(s.sampler.sample(plan_of_steps(evaluations), [s.seeds[0]] * len(s.seeds), s.who))


CHAIN, MOVES, TAKEN = 12, 4, 4  # steps of the plan; moves for each sample, and samples of a chain


def chain(s: Setting) -> Floats:
    """Denoising Langevin Gibbs over x and its noise level. After each move, the level is estimated from the residual,
    and the state with the least noise among a number of moves is denoised. Return the samples of each seed's chain,
    seed by seed."""
    samples, _ = chain_samples(s)
    return np.stack(samples, 1).reshape(-1, *samples[0].shape[1:])


def chain_samples(s: Setting) -> tuple[list[Floats], float]:
    """Return the samples of all seeds' chains, and the number of evaluations of the network for each sample."""
    plan, draws, h = s.sampler.compile(f"ddim:{CHAIN}", 1.0), s.sampler.draws(s.seeds), 0.3
    rho = np.array([(step.sigma or 0.0) / step.alpha if step.alpha else np.inf for step in plan.steps])
    alpha = np.array([step.alpha or 0.0 for step in plan.steps])
    level = np.full(len(s.seeds), CHAIN // 2)
    y, evaluations = s.sample(plan_of_steps(4)) + rho[CHAIN // 2] * draws(0), 4.0
    samples, number, wide = [], 1, (-1, *[1] * (draws(0).ndim - 1))
    for _ in range(TAKEN):
        lowest, least = level * 0 - 1, np.zeros_like(y)
        for _ in range(MOVES):
            x0 = _denoise(s, plan, level, alpha[level].reshape(wide) * y)
            y = y + h / 2 * (x0 - y) + np.sqrt(h) * rho[level].reshape(wide) * draws(number)
            residual = np.sqrt(np.mean((y - x0) ** 2, axis=tuple(range(1, y.ndim))))
            level, number = np.abs(np.log(rho[None] / residual[:, None])).argmin(1), number + 1
            better = level > lowest
            lowest, least = np.where(better, level, lowest), np.where(better.reshape(wide), y, least)
        rows = (alpha[lowest].reshape(wide) * least).astype(np.float32)
        samples.append(
            s.sampler.sample_each([tail(plan, int(k)) for k in lowest], s.seeds, s.who, given={"row0": rows})
        )
        evaluations += MOVES + float(np.mean(CHAIN - lowest))
    return samples, evaluations / TAKEN


def _denoise(s: Setting, plan: Plan, level: NDArray[np.intp], rows: Floats) -> Floats:
    """Return x0 of states, each of which is at its own step."""
    x0 = np.zeros_like(rows, np.float32)
    for k in np.unique(level):
        here = np.flatnonzero(level == k)
        given = {"row0": rows[here].astype(np.float32)}
        seeds, who = [s.seeds[place] for place in here], {s.condition: [s.labels[place] for place in here]}
        x0[here] = next(iter(s.sampler.steps(tail(plan, int(k)), seeds, who, given=given))).x0
    return x0


def wide(s: Setting, plan: str, moves: bool, overlap: int = 0) -> Floats:
    """Return samples twice as wide as the network's, made in windows."""
    window = s.sampler.bundle.manifest.x_shape
    shape, compiled = (*window[:-1], 2 * window[-1]), s.sampler.compile(plan, 1.0)
    return np.asarray(sample_tiles(s.sampler, compiled, shape, Tiles(overlap, moves=moves), s.seeds, condition=s.who))


def guide_by_residual(s: Setting, steps: float = 8) -> Floats:
    """RCFG: image-to-image with one branch a step."""
    return from_picture(s, steps, 0.6, Residual(RCFG[model(s)]))


def guide_by_two_branches(s: Setting, evaluations: int = 8) -> Floats:
    return from_picture(s, evaluations / 2, 0.6, CFG)


MOVING, STANDING, OVERLAP = "in windows that move", "in windows that stand", "in windows that overlap by half"
WINDOWS = {STANDING: 2, OVERLAP: 3}  # in a step
COLOURED = SHIPPED[1:]  # the pictures of the first one end in black, so no way has a seam


@cache
def in_windows(how: str, steps: int) -> Way:
    """Return the way of windows along steps of `ddim`."""
    if how == OVERLAP:
        return lambda s: wide(s, f"ddim:{steps}", False, s.sampler.bundle.manifest.x_shape[-1] // 2)
    return lambda s: wide(s, f"ddim:{steps}", how == MOVING)


def plain_windows(how: str, s: Setting, evaluations: int) -> Floats:
    return in_windows(how, max(evaluations // WINDOWS[how], 1))(s)


def window_steps(how: str, few: int) -> StepPair:
    """Return the pair of these steps and of three times as many in windows."""
    many = 3 * few
    return StepPair(f"ddim:{few}", f"ddim:{many}", in_windows(how, few), in_windows(how, many), how=how)


def inpainting_steps(evaluations: int, again: int = 0) -> StepPair:
    """Return the pair of `inpaint` with these evaluations, and with three times as many."""
    counts = (evaluations, 3 * evaluations)
    few, many = (partial(inpaint, evaluations=count, again=again * count // evaluations) for count in counts)
    how = "inpainting by RePaint" if again else "inpainting"
    return StepPair(f"ddpm, {counts[0]} evaluations", f"ddpm, {counts[1]} evaluations", few, many, how=how)


BY_RESIDUAL = StepPair(
    "ddim:13", "ddim:40", guide_by_residual, partial(guide_by_residual, steps=24), how="from a picture by RCFG"
)
BY_TWO = StepPair(
    few="ddim:7",
    many="ddim:20",
    of_few=guide_by_two_branches,
    of_many=partial(guide_by_two_branches, evaluations=24),
    guidance=CFG,
    how="from a picture",
)
HELD, REPAINTED = inpainting_steps(28), inpainting_steps(28, again=9)
CYCLES = step_pair("ddim(eta=1.0):10", "ddim(eta=1.0):30", 1.0)  # of COW, whose steps are those of the authors' code
MOVED = window_steps(MOVING, 10)
WHITE, CHAINED = step_pair("ddim:10", "ddim:30", 1.0), step_pair(f"ddim:{CHAIN}", f"ddim:{3 * CHAIN}", 1.0)
CLAIMS = [
    Claim("StreamDiffusion RCFG", "guidance at half the evaluations", "two branches of the best weight", LOG_P, 8,
          guide_by_residual, guide_by_two_branches, scores.reward, guidance=CFG, compared=(BY_RESIDUAL, BY_TWO)),
    Claim("RePaint", "inpainting that fits its surroundings", "held by steps that go down", LOG_P, 28,
          lambda s: inpaint(s, 28, again=9), inpaint, scores.reward, compared=(REPAINTED, HELD)),
    *[Claim("COW", "inpainting that fits its surroundings", control, LOG_P, 32, cyclic, theirs, scores.reward, GUIDED,
            compared=(CYCLES, steps))
      for control, theirs, steps in (
          ("held by steps that go down", inpaint, inpainting_steps(32)),
          ("RePaint", lambda s, n: inpaint(s, n, again=max((n - 1) // 3, 1)), inpainting_steps(32, again=10)))],
    Claim("NeuralRemaster", "the layout of a picture, at no cost", "image-to-image of strength 0.8", "correlation", 10,
          from_phases, from_picture, scores.layout, GUIDED),
    Claim("NeuralRemaster", "samples as good as of white noise", "white noise", LOG_P, 10,
          from_phases, plain, scores.reward, GUIDED, compared=(WHITE, WHITE)),
    Claim("illustration sequences", "pictures of their own classes", "one noise", LOG_P, 6,
          story, one_noise, scores.reward,
          compared=(step_pair("dpmpp_2m:10", "dpmpp_2m:30", 1.0), step_pair("dpmpp_2m:6", "dpmpp_2m:30", 1.0))),
    Claim("Denoising MCMC", "good samples in fewer evaluations", "dpmpp_2m", LOG_P, 11,
          chain, lambda s, n: several(s, plan_of_steps(n), TAKEN), scores.mean_reward, GUIDED,
          compared=(CHAINED, step_pair("dpmpp_2m:11", "dpmpp_2m:33", 1.0))),
    *[Claim("Any-Size-Diffusion", "no seams without overlap", how.removeprefix("in "), SEAMS, 30,
            in_windows(MOVING, 10), partial(plain_windows, how), scores.seams, models, network=MOVED,
            compared=(MOVED, window_steps(how, 30 // WINDOWS[how])))
      for how, models in ((STANDING, COLOURED), (OVERLAP, (*COLOURED, *GUIDED)))],
]  # fmt: skip
