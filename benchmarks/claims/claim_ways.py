"""The ways that claims.py compares: published systems as runs of fewstep, plain runs, and their scores."""

import time
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.evaluation.distances.features import Extractor
from fewstep.plans.guidance import Residual
from fewstep.plans.transforms import as_given, own_noise, tail, time_travel
from fewstep.rollouts.metrics import Floats, psnr
from fewstep.runs import Similar, Steering, Tiles, population, sample_tiles, stream, trajectory_variance
from fewstep.runtime import Hold, Sampler
from fewstep.runtime.execute import Seen, begin, combine, see, update

W = 2.0
BATCH = 64
FILM = 48  # frames: few of them are of a stream that fills or drains


@dataclass(frozen=True)
class Setting:
    """A model, the judge of its classes, and the seeds; `labels` are the classes asked for."""

    sampler: Sampler
    judge: Extractor
    condition: str
    seeds: range

    @property
    def labels(self) -> list[int]:
        return [seed % 10 for seed in self.seeds]

    @property
    def who(self) -> dict[str, list[int]]:
        return {self.condition: self.labels}

    def logits(self, x: Floats) -> Floats:
        parts = [np.clip(x[at : at + 256], -1, 1).astype(np.float32) for at in range(0, len(x), 256)]
        found = np.concatenate([self.judge.network({self.judge.input: part})["logits"] for part in parts])
        top = found.max(1, keepdims=True)
        return np.asarray(found - top - np.log(np.exp(found - top).sum(1, keepdims=True)))

    def reward(self, x: Floats) -> Floats:
        """log p(class | x) by the judge, [B], of as many samples of each seed as there are, seed by seed."""
        wanted = np.repeat(self.labels, len(x) // len(self.labels))
        return np.asarray(self.logits(x)[np.arange(len(x)), wanted])

    def sample(self, plan: Any, **options: Any) -> Floats:
        return np.asarray(self.sampler.sample(plan, self.seeds, self.who, **options))

    @cached_property
    def picture(self) -> Floats:
        """A sample of another class for each seed: what edits start from."""
        other = {self.condition: [(label + 1) % 10 for label in self.labels]}
        return np.asarray(self.sampler.sample(guided(8), self.seeds, other, W))

    @cached_property
    def known(self) -> Floats:
        """Samples of the classes asked for, of other seeds: what inpainting is given half of."""
        seeds = [seed + 500 for seed in self.seeds]
        return np.asarray(self.sampler.sample(guided(10), seeds, self.who, W))


def guided(steps: int) -> str:
    return f"dpmpp_2m:{max(steps, 1)}"


# Scores: one figure for each seed, or as many as there are; the larger is better


def value(s: Setting, made: Floats) -> Floats:
    return made


def reward(s: Setting, x: Floats) -> Floats:
    return s.reward(x)


def best_reward(s: Setting, x: Floats) -> Floats:
    """The reward of the best of each seed's samples."""
    return np.asarray(s.reward(x).reshape(len(s.seeds), -1).max(1))


def returned(s: Setting, x: Floats) -> Floats:
    return np.minimum(psnr(x, s.picture), 99.0)


def layout(s: Setting, x: Floats) -> Floats:
    pairs = zip(x, s.picture, strict=True)
    return np.array([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs])


def alike(s: Setting, x: Floats) -> Floats:
    """The mean correlation of each picture with all."""
    return np.asarray(np.corrcoef(x.reshape(len(x), -1)).mean(1))


def seams(s: Setting, x: Floats) -> Floats:
    """Minus the step at the border of two windows over the step elsewhere, along the width."""
    steps = np.abs(np.diff(x, axis=-1)).mean(axis=(1, 2))
    return -np.asarray(steps[:, x.shape[-1] // 2 - 1] / np.median(steps, axis=1))


# Streams


def rcfg(s: Setting) -> Floats:
    return s.sample("ddim:13", guidance=Residual(1.4), given={"image": s.picture}, strength=0.6)  # 8 steps


def cfg(s: Setting, evaluations: int) -> Floats:
    steps = max(round(evaluations / 2 / 0.6), 1)
    return s.sample(f"ddim:{steps}", guidance=1.4, given={"image": s.picture}, strength=0.6)


def streamed(s: Setting, mode: Any) -> Floats:
    """Frames a second, [1]."""
    frames = stream(s.sampler, plan="ddim:4", condition={s.condition: s.labels[:1]}, strength=1.0, mode=mode)
    film = np.resize(s.picture, (FILM, *s.picture.shape[1:]))
    begun = time.perf_counter()
    list(frames(film))
    return np.array([FILM / (time.perf_counter() - begun)])


def still(s: Setting, similar: Similar | None) -> Floats:
    """Frames for each call of the network, of 22 equal frames, [1]."""
    one = {s.condition: s.labels[:1]}
    frames = stream(s.sampler, plan="ddim:4", condition=one, strength=1.0, similar=similar, mode="sequence")
    list(frames(np.repeat(s.picture[:1], 22, 0)))
    return np.array([22 / frames.stats().calls])


# Populations and searches of noise: N particles, or rounds, of so many steps

N, STEPS = 4, 10
SEARCH = N * STEPS


def best_of(s: Setting, evaluations: int) -> Floats:
    """Samples of each seed, as many as the evaluations pay for, seed by seed."""
    count = max(evaluations // STEPS, 1)
    seeds = [seed * 64 + n for seed in s.seeds for n in range(count)]
    who = {s.condition: [label for label in s.labels for _ in range(count)]}
    return np.asarray(s.sampler.sample(f"ddpm:{STEPS}", seeds, who))


def populated(s: Setting, **options: Any) -> Floats:
    plan = s.sampler.compile(f"ddpm:{STEPS}")
    made = population(s.sampler, plan, Steering(s.reward, 1.0, plan), s.seeds, N, s.who, batch=BATCH, **options)
    return made.samples.reshape(-1, *made.samples.shape[2:])


def rolled(s: Setting) -> Floats:
    """Rollover Budget Forcing, for all seeds side by side: a next state is tried until it is better than the one
    before, and evaluations that are saved go to the next step. At most 1 + 9 x 4 evaluations of a seed."""
    plan, every = s.sampler.compile(f"ddpm:{STEPS}"), np.arange(len(s.seeds))

    def look(index: int, rows: Floats, who: NDArray[np.intp]) -> tuple[Seen, Floats]:
        labels = [s.labels[place] for place in who]
        u = combine(plan.steps[index].input, [rows], np.float32)
        outputs = s.sampler.network(plan, len(who), {s.condition: labels})(index, plan.steps[index], u)
        seen = see(plan, index, [rows], u, outputs)
        return seen, s.logits(seen.x0)[np.arange(len(who)), labels]

    seen, found = look(0, np.asarray(begin(plan, s.sampler.draws(s.seeds), np.float32, {})[0]), every)
    spare, number = np.zeros(len(every), int), 2**20
    for index in range(1, STEPS):
        spare += N
        kept, best = (np.zeros_like(seen.u), np.zeros_like(seen.u)), np.full(len(every), -np.inf)
        while (open_ := np.flatnonzero((spare > 0) & ~(best > found))).size:
            spare[open_], number = spare[open_] - 1, number + 100  # draws of its own for each try
            draws = s.sampler.draws([s.seeds[place] for place in open_])
            rows = update(plan, _of(seen, open_), lambda draw: draws(draw + number))[0]  # noqa: B023 (called at once)
            tried, reached = look(index, np.asarray(rows), open_)
            better = reached > best[open_]
            best[open_[better]] = reached[better]
            for whole, part in zip(kept, (rows, tried.outputs[0]), strict=True):
                whole[open_[better]] = part[better]
        rows = np.asarray(kept[0])
        u = combine(plan.steps[index].input, [rows], np.float32)
        seen, found = see(plan, index, [rows], u, [kept[1]]), best
    return np.asarray(seen.x0)


def _of(seen: Seen, who: NDArray[np.intp]) -> Seen:
    """An evaluation of one row and one branch, for some seeds."""
    (row,), (output,) = seen.before, seen.outputs
    return Seen(seen.index, seen.step, [row[who]], seen.u[who], [output[who]], None)


def searched(s: Setting) -> Floats:
    """Zero-order: each seed's noise moves where its reward grew."""
    plan, draws = own_noise(s.sampler.compile(f"ddim:{STEPS}")), s.sampler.draws(s.seeds)
    z = draws(0)
    x = s.sample(plan, given={"noise": z})
    for n in range(1, N):
        tried = (np.sqrt(1 - 0.4**2) * z + 0.4 * draws(n)).astype(np.float32)
        made = s.sample(plan, given={"noise": tried})
        better = (s.reward(made) > s.reward(x)).reshape(-1, *[1] * (z.ndim - 1))
        z, x = np.where(better, tried, z), np.where(better, made, x)
    return x


def found(s: Setting) -> Floats:
    """FIND: the mean of the start noise moves for all; the samples of the last round."""
    plan, shift = own_noise(s.sampler.compile(f"ddim:{STEPS}")), np.zeros((), np.float32)
    for n in range(N):
        z = s.sampler.draws([seed + 1000 * n for seed in s.seeds])(0)
        x = s.sample(plan, given={"noise": (z + shift).astype(np.float32)})
        r = s.reward(x)
        shift = shift + 0.1 * np.einsum("b,b...->...", (r - r.mean()) / (r.std() + 1e-9), z) / np.float64(len(z))
    return x


def plain(s: Setting, evaluations: int) -> Floats:
    return s.sample(f"ddim:{max(evaluations, 1)}")


def filtered(s: Setting) -> Floats:
    """The reward of those whose trajectory varies least, nine in ten."""
    states = list(s.sampler.steps("ddim:20", s.seeds, s.who))
    kept = np.argsort(trajectory_variance(states, last=5))[: max(1, round(0.9 * len(s.seeds)))]
    return np.asarray(s.reward(states[-1].x0)[kept])


# Edits, starts, tiles


def inverted(s: Setting, steps: int, hold: bool) -> Floats:
    """The source that comes back beside an edit."""
    inverse, forward = s.sampler.compile(f"ddim_inverse:{steps}"), s.sampler.compile(f"ddim:{steps}")
    source = {s.condition: [(label + 1) % 10 for label in s.labels]}
    states = list(s.sampler.steps(inverse, s.seeds, source, given={"x": s.picture}))
    kept = (*(state.after[0] for state in reversed(states)), s.picture)
    held = Hold(kept, np.ones(1, np.float32), clean=True) if hold else None
    return np.asarray(s.sampler.sample(tail(forward, 0), s.seeds, source, given={"row0": kept[0]}, hold=held))


def inpainted(s: Setting, plan: Any) -> Floats:
    """The upper half is known, of the class that is asked for."""
    mask = np.zeros_like(s.known[0])
    mask[:, : mask.shape[1] // 2] = 1
    return s.sample(plan, hold=Hold(s.known, mask, fresh=True))


def repainted(s: Setting) -> Floats:
    return inpainted(s, time_travel(s.sampler.compile("ddpm:10"), 3))


def from_phases(s: Setting) -> Floats:
    magnitudes = np.abs(np.fft.fft2(s.sampler.draws(s.seeds)(0)))
    z = np.fft.ifft2(magnitudes * np.exp(1j * np.angle(np.fft.fft2(s.picture)))).real.astype(np.float32)
    return s.sample(own_noise(s.sampler.compile("ddim:10")), given={"noise": z})


def story(s: Setting) -> Floats:
    """One picture for each seed's class in 10 steps, of which 4 are run once."""
    plan = s.sampler.compile("dpmpp_2m:10")
    *_, state = islice(s.sampler.steps(plan, s.seeds[:1], {s.condition: s.labels[:1]}), 4)
    rows = {name: np.repeat(row, len(s.seeds), 0) for name, row in as_given(state.after).items()}
    return np.asarray(s.sampler.sample(tail(plan, 4), [s.seeds[0]] * len(s.seeds), s.who, given=rows))


def one_noise(s: Setting, evaluations: int) -> Floats:
    return np.asarray(s.sampler.sample(guided(evaluations), [s.seeds[0]] * len(s.seeds), s.who))


def chain(s: Setting) -> Floats:
    """Denoising MCMC: four steps, five of Langevin at half the noise, and the way down from there."""
    plan, k = s.sampler.compile("ddim:10"), 5
    step, draws = plan.steps[k], s.sampler.draws(s.seeds)
    assert step.sigma is not None and step.alpha
    rho = step.sigma / step.alpha
    y = s.sample(guided(4)) + rho * draws(0)
    for n in range(1, 6):
        x0 = next(iter(s.sampler.steps(tail(plan, k), s.seeds, s.who, given={"row0": step.alpha * y}))).x0
        y = (y + 0.15 * (x0 - y) + np.sqrt(0.3) * rho * draws(n)).astype(np.float32)
    return s.sample(tail(plan, k), given={"row0": step.alpha * y})


def wide(s: Setting, plan: str, moves: bool) -> Floats:
    """Samples twice as wide as the network's, in windows without overlap."""
    window = s.sampler.bundle.manifest.x_shape
    shape, compiled = (*window[:-1], 2 * window[-1]), s.sampler.compile(plan)
    return np.asarray(sample_tiles(s.sampler, compiled, shape, Tiles(0, moves=moves), s.seeds, condition=s.who))
