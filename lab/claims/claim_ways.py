"""Claims about systems that combine runs: the ways of these systems, and the plain ways."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.literature.populations import Steering, guidance_corrector, population, trajectory_variance
from fewstep.literature.streams import SimilarityFilter, stream
from fewstep.measure.rollouts.metrics import Floats
from fewstep.plans.plan import Plan
from fewstep.plans.transforms import use_given_noise
from fewstep.runtime.sampling.execute import StepEvaluation, begin, build_evaluation, combine, update
from lab.claims import scores
from lab.claims.claim import (
    GUIDED,
    LOG_P,
    MORE_STEPS,
    OF_ITS_PLAN,
    SEARCH_STEPS,
    SHIPPED,
    Always,
    Claim,
    Search,
    step_pair,
)
from lab.claims.settings import APART, BATCH, LAWFUL, Setting, W

FILM = 48  # number of frames, few of which are processed while the stream fills or drains
FILMS, CAMERA = 8, 0.02  # films of two still scenes, and the deviation of a camera's noise, 2.5 of 255 levels
LENGTH, CUT = 22, 6  # frames of such a film, and the first one of the second scene
CHANGE = 0.05  # mean difference of pixels between frames, twice that of the camera's noise


# Streams


def frame_rate(s: Setting, mode: Any) -> Floats:
    """Return the frames per second of CPU time, [1]."""
    frames = stream(s.sampler, plan="ddim:4", condition={s.condition: s.labels[:1]}, strength=1.0, mode=mode)
    film = np.resize(s.picture, (FILM, *s.picture.shape[1:]))
    begun = time.process_time()
    list(frames(film))
    return np.array([FILM / (time.process_time() - begun)])


def select_all(film: Floats) -> list[int]:
    return list(range(len(film)))


def select_changed(film: Floats) -> list[int]:
    """Return the places of frames whose pixels differ from the last selected one by more than `CHANGE` on average, and
    of frames before which as many were skipped as the filter allows in a row."""
    places = [0]
    for place, frame in enumerate(film):
        if place - places[-1] > SimilarityFilter().most or np.abs(frame - film[places[-1]]).mean() > CHANGE:
            places.append(place)
    return places


def watch(s: Setting, similar: SimilarityFilter | None, select: Callable[[Floats], list[int]] = select_all) -> Floats:
    """Return the frames per call of the network or late frame, [FILMS]. A film has two still scenes, with the noise of
    a camera in each frame. A frame is late if it still shows the first scene in the second one. Only selected frames
    reach the stream."""
    figures = []
    scenes = zip(s.picture[:FILMS], np.roll(s.picture, -1, 0), s.seeds, s.labels, strict=False)
    for first, second, seed, label in scenes:
        film = np.stack([first] * CUT + [second] * (LENGTH - CUT))
        film += CAMERA * np.random.default_rng(seed).standard_normal(film.shape).astype(np.float32)
        one = {s.condition: [label]}
        frames = stream(
            s.sampler, plan="ddim:4", condition=one, strength=1.0, similar=similar, mode="sequence", seed=seed
        )
        places = select(film)
        fresh = [place for place, frame in zip(places, frames(film[places]), strict=True) if frame.fresh]
        late = next(place for place in (*fresh, LENGTH) if place >= CUT) - CUT
        figures.append(LENGTH / (frames.stats().calls + late))
    return np.array(figures)


# Populations and searches of noise: N particles, rounds or noises, with a number of steps each

N, STEPS = 4, SEARCH_STEPS
SEARCH = N * STEPS
OF_EQUAL_STEPS = Search(STEPS, (STEPS,))
COUNTS = (10, 20, 40)  # of steps of `MORE_STEPS`
CFG = 6.0  # the best weight of two branches on both networks, as chosen for `RCFG`


def best_of(s: Setting, evaluations: int) -> Floats:
    """Return samples of each seed, seed by seed, as many as the evaluations allow. For best of N, `ddim` is better than
    `ddpm`."""
    return several(s, f"ddim:{STEPS}", max(evaluations // STEPS, 1))


def best_of_own(s: Setting, evaluations: int) -> Floats:
    """Return samples as `best_of` does, along the plan of the populations."""
    return several(s, f"ddpm:{STEPS}", max(evaluations // STEPS, 1))


def best_of_guided(s: Setting, evaluations: int) -> Floats:
    """Return samples as `best_of` does, half as many, with guidance by two branches."""
    return several(s, f"ddim:{STEPS}", max(evaluations // (2 * STEPS), 1), CFG)


def several(s: Setting, plan: str, count: int, guidance: float | None = None) -> Floats:
    """Return `count` samples of each seed, seed by seed."""
    seeds = [seed * 64 + n for seed in s.seeds for n in range(count)]
    return np.asarray(s.sampler.sample(plan, seeds, {s.condition: np.repeat(s.labels, count)}, guidance))


def steer(s: Setting) -> Floats:
    """FK steering with the strength, the potential and the steps of the authors' pictures: 20 to 80 of 100, by 20.
    Their script resamples all seeds at these steps, however many particles are effective."""
    plan, at = s.sampler.compile(f"ddpm:{STEPS}", 1.0), range(2, STEPS, 2)
    return run_population(s, plan, Steering(s.reward, 10.0, plan, "max", at), at=at, threshold=1.0)


def continue_best(s: Setting, evaluations: int = SEARCH) -> Floats:
    """SVDD: all particles of a seed continue that of the largest reward, at each step."""
    plan = s.sampler.compile(f"ddpm:{STEPS}", 1.0)
    return run_population(s, plan, Steering(s.reward, 1.0, plan), choice="best")


def run_population(s: Setting, plan: Plan, weigh: Steering, **options: Any) -> Floats:
    made = population(s.sampler, plan, weigh, s.seeds, N, s.who, batch=BATCH, **options)
    return made.samples.reshape(-1, *made.samples.shape[2:])


def draw_guided_particles(s: Setting, corrects: bool) -> Floats:
    """Return particles of each seed along guided steps, as rows with their weights in the last column."""
    plan = s.sampler.compile(f"dpmpp_2m_sde:{LAWFUL}", W)
    if not corrects:
        return s.drawn(plan, lambda state: np.zeros(len(state.u)), ())
    return s.drawn(plan, guidance_corrector(plan), None)


def roll_over(s: Setting) -> Floats:
    """Rollover Budget Forcing, for all seeds side by side. Of several starts the one of the largest reward continues. A
    next state is drawn until it is better than all previous ones, and saved evaluations are passed to the next step.
    The last step uses the rest: 4 + 9 x 4 evaluations for a seed."""
    plan, every, draws = s.sampler.compile(f"ddpm:{STEPS}", 1.0), np.arange(len(s.seeds)), s.sampler.draws(s.seeds)

    def look(index: int, rows: Floats, who: NDArray[np.intp]) -> tuple[StepEvaluation, Floats]:
        labels = [s.labels[place] for place in who]
        u = combine(plan.steps[index].input, [rows], np.float32)
        outputs = s.sampler.step_network(plan, len(who), {s.condition: labels})(index, plan.steps[index], u)
        evaluation = build_evaluation(plan, index, [rows], u, outputs)
        return evaluation, s.logits(evaluation.x0)[np.arange(len(who)), labels]

    def rebuild(index: int, rows: Floats, output: Floats) -> StepEvaluation:
        return build_evaluation(plan, index, [rows], combine(plan.steps[index].input, [rows], np.float32), [output])

    starts = [np.asarray(begin(plan, lambda draw: draws(draw + 100 * n), np.float32, {})[0]) for n in range(N)]  # noqa: B023 (called at once)
    tried_starts, rewards_of = zip(*(look(0, rows, every) for rows in starts), strict=True)
    best_start, top = np.argmax(rewards_of, 0), np.max(rewards_of, 0)
    outputs = np.stack([start.outputs[0] for start in tried_starts])
    evaluation = rebuild(0, np.stack(starts)[best_start, every], outputs[best_start, every])
    spare, number = np.zeros(len(every), int), 2**20
    for index in range(1, STEPS):
        spare += N
        kept, best = (np.zeros_like(evaluation.u), np.zeros_like(evaluation.u)), np.full(len(every), -np.inf)
        while (open_ := np.flatnonzero((spare > 0) & ((best <= top) | (index == STEPS - 1)))).size:
            spare[open_], number = spare[open_] - 1, number + 100  # new draws
            some = s.sampler.draws([s.seeds[place] for place in open_])
            rows = update(plan, _of(evaluation, open_), lambda draw: some(draw + number))[0]  # noqa: B023 (called at once)
            tried, rewards = look(index, np.asarray(rows), open_)
            better = rewards > best[open_]
            best[open_[better]] = rewards[better]
            for whole, part in zip(kept, (rows, tried.outputs[0]), strict=True):
                whole[open_[better]] = part[better]
        evaluation, top = rebuild(index, np.asarray(kept[0]), kept[1]), np.maximum(top, best)
    return np.asarray(evaluation.x0)


def _of(evaluation: StepEvaluation, who: NDArray[np.intp]) -> StepEvaluation:
    """Return an evaluation of one row and one branch for some of the seeds."""
    (row,), (output,) = evaluation.before, evaluation.outputs
    return StepEvaluation(evaluation.index, evaluation.step, [row[who]], evaluation.u[who], [output[who]], None)


def find_noise(s: Setting) -> Floats:
    """Zero-order search: a start, and N - 1 neighbours one after the other. Each seed's noise moves where its reward
    increased."""
    plan, draws = use_given_noise(s.sampler.compile(f"ddim:{STEPS}", 1.0)), s.sampler.draws(s.seeds)
    z = draws(0)
    x = s.sample(plan, given={"noise": z})
    for n in range(1, N):
        tried = (np.sqrt(1 - 0.4**2) * z + 0.4 * draws(n)).astype(np.float32)
        made = s.sample(plan, given={"noise": tried})
        better = (s.reward(made) > s.reward(x)).reshape(-1, *[1] * (z.ndim - 1))
        z, x = np.where(better, tried, z), np.where(better, made, x)
    return x


def move_mean(s: Setting) -> Floats:
    """REINFORCE on the mean of the start noise of each class, as in compositions.md. Return the samples of the last
    round."""
    plan, labels = use_given_noise(s.sampler.compile(f"ddim:{STEPS}", 1.0)), np.array(s.labels)
    shift = np.zeros((scores.CLASSES, *s.sampler.bundle.manifest.x_shape))
    for n in range(N):
        z = s.sampler.draws([seed + 1000 * n for seed in s.seeds])(0)
        x = s.sample(plan, given={"noise": (z + shift[labels]).astype(np.float32)})
        r = s.reward(x)
        for label in set(s.labels):
            here = labels == label
            gained = (r[here] - r[here].mean()) / (r[here].std() + 1e-9)
            shift[label] += 0.3 * np.einsum("b,b...->...", gained, z[here]) / here.sum()
    return x


def plain(s: Setting, evaluations: int) -> Floats:
    return s.sample(f"ddim:{max(evaluations, 1)}")


def choose_count(s: Setting) -> int:
    """Return the one of `COUNTS` whose samples have the largest mean reward on separate seeds."""
    return _best_count(replace(s, seeds=APART))


@cache
def _best_count(apart: Setting) -> int:
    return max(COUNTS, key=lambda count: scores.reward(apart, plain(apart, count)).mean())


def filter_trajectories(s: Setting) -> Floats:
    """Return the mean reward of the nine tenths of the samples whose trajectories vary least, as one figure for each
    seed. Relative to the reward without the filter, its deviation equals that of a mean without a random tenth of the
    samples."""
    states = list(s.sampler.steps("ddim:20", s.seeds, s.who))
    ranks = np.argsort(np.argsort(trajectory_variance(states, last=5)))
    kept = ranks < max(1, round(0.9 * len(s.seeds)))
    r = s.reward(states[-1].x0)
    return np.asarray(r + (r - r.mean()) * (kept / kept.mean() - 1))


OF_FILTER = step_pair("ddim:20", "ddim:60", 1.0)  # of all samples, and of those that are kept
CLAIMS = [
    Claim("StreamDiffusion batch", "1.5x the frames of a sequence", "a sequence", "frames/s", 4,
          lambda s: frame_rate(s, "batch"), lambda s, n: frame_rate(s, "sequence"),
          scores.value, of_time=True, asked=1.5,
          unit="round", has_longer=False),
    *[Claim("StreamDiffusion filter", "a still scene costs little", control, "frames per call or late frame", 4,
            lambda s: watch(s, SimilarityFilter()), theirs, scores.value, unit="film", has_longer=False)
      for control, theirs in (("no filter", lambda s, n: watch(s, None)),
                              ("a threshold on pixels", lambda s, n: watch(s, None, select_changed)))],
    *[Claim(system, "more reward than the best of N", control, LOG_P, SEARCH,
            way, theirs, scores.best_reward, has_longer=False, search=OF_EQUAL_STEPS)
      for system, way, controls in (
          ("FK steering", steer, {"best of N": best_of, OF_ITS_PLAN: best_of_own}),
          ("RBF", roll_over, {"best of N": best_of, "SVDD": continue_best}),
          ("SVDD", continue_best, {"best of N": best_of, OF_ITS_PLAN: best_of_own}))
      for control, theirs in (*controls.items(), ("guidance, best of 2", best_of_guided))],
    Claim("FK correctors", "the law that guidance names", "guidance alone", "-distance of class shares", LAWFUL,
          lambda s: draw_guided_particles(s, True), lambda s, n: draw_guided_particles(s, False), scores.lawful,
          GUIDED[:1], unit="class", has_longer=False),
    Claim("noise search", "more reward than more steps", MORE_STEPS, LOG_P, SEARCH, find_noise,
          Always(lambda s: plain(s, choose_count(s))), scores.reward, plain_evaluations=choose_count,
          has_longer=False, search=Search(STEPS, COUNTS)),
    Claim("noise search", "more reward than more noises", "best of N", LOG_P, SEARCH,
          find_noise, best_of, scores.best_reward, (*SHIPPED, *GUIDED), has_longer=False, search=OF_EQUAL_STEPS),
    Claim("REINFORCE on the start", "a start that is rewarded, for a class", "best of N", LOG_P, SEARCH,
          move_mean, best_of, scores.best_reward, search=OF_EQUAL_STEPS),
    Claim("hallucination filter", "fewer samples off the data, 90 % kept", "as many left out at random", LOG_P, 20,
          filter_trajectories, lambda s, n: scores.reward(s, plain(s, n)), scores.value, has_longer=False,
          compared=(OF_FILTER, OF_FILTER)),
]  # fmt: skip
