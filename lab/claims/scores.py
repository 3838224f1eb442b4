"""Scores of claims: figures of samples, one for each seed or a fixed number; larger is better."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np

from benchmarks.distance_to_data import jackknife_distances
from fewstep.measure.distances.frechet import Gaussian, fit_gaussian
from fewstep.measure.rollouts.metrics import Floats, psnr
from fewstep.models import ready
from fewstep.runtime import spectrogram
from lab.claims.caption_settings import has_its_colour
from lab.claims.settings import PARTICLES, Setting, W, reference, sampler_of

CLASSES = 10
Score = Callable[[Setting, Floats], Floats]
TEACHER, OF_TEACHER = "dpmpp_2m:80@arctan", "dpmpp_2m:20@arctan"  # for pairs, and for many samples
TEACHER_SEEDS = range(30_000, 30_512)  # for a distance to the teacher, which no claim draws from


def value(s: Setting, made: Floats) -> Floats:
    return made


def reward(s: Setting, x: Floats) -> Floats:
    return s.reward(x)


def best_reward(s: Setting, x: Floats) -> Floats:
    """Return the reward of the best of each seed's samples."""
    return np.asarray(s.reward(x).reshape(len(s.seeds), -1).max(1))


def mean_reward(s: Setting, x: Floats) -> Floats:
    """Return the mean reward of each seed's samples."""
    return np.asarray(s.reward(x).reshape(len(s.seeds), -1).mean(1))


def layout(s: Setting, x: Floats) -> Floats:
    pairs = zip(x, s.picture, strict=True)
    return np.array([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs])


def seams(s: Setting, x: Floats) -> Floats:
    """Return minus the step at the border between two windows, relative to the step elsewhere, along the width."""
    steps = np.abs(np.diff(x, axis=-1)).mean(axis=(1, 2))
    return -np.asarray(steps[:, x.shape[-1] // 2 - 1] / np.median(steps, axis=1))


def lawful(s: Setting, rows: Floats) -> Floats:
    """Return minus the total variation between the classes of weighted rows and those of the distribution that guidance
    defines, one figure for each class asked for. The distribution is p(x | c)^W p(x)^(1 - W) = p(x | c) p(c | x)^(W -
    1) up to a factor: samples without guidance, weighted by the judge."""
    plain = s.particles
    law = _shares(s, plain, np.exp((W - 1) * s.reward(_samples(s, plain))))
    return -np.abs(_shares(s, rows, rows[:, -1]) - law).sum(1) / 2


def _shares(s: Setting, rows: Floats, weights: Floats) -> Floats:
    """Return the fractions of the judge's classes among the weighted samples of each class asked for, [asked,
    CLASSES]."""
    asked, places = np.unique(np.repeat(s.labels, PARTICLES), return_inverse=True)
    shares = np.zeros((len(asked), CLASSES))
    np.add.at(shares, (places, s.logits(_samples(s, rows)).argmax(1)), weights)
    return np.asarray(shares / shares.sum(1, keepdims=True))


def _samples(s: Setting, rows: Floats) -> Floats:
    return rows[:, :-1].reshape(-1, *s.sampler.bundle.manifest.x_shape)


def likeness(s: Setting, x: Floats) -> Floats:
    """Return minus the FD to the test images, [PARTS], as pseudo-values of the jackknife, which removes the bias of
    small numbers."""
    assert s.judge is not None
    return -jackknife_distances(_features(s, s.seen(x)), reference(s))


def to_clean(s: Setting, x: Floats) -> Floats:
    """Return the PSNR in dB to the clean samples, [B]."""
    return psnr(np.clip(x, -1, 1), s.clean)


@cache
def teacher_samples(s: Setting, plan: str, guidance: float | None) -> Floats:
    """Return the teacher's samples of a network: many steps with this guidance."""
    return s.sample(plan, guidance=guidance)


@cache
def to_teacher(guidance: float | None = W) -> Score:
    """Return the score that is the PSNR in dB to the teacher's samples with this guidance, [B]."""
    return lambda s, x: psnr(x, teacher_samples(s, TEACHER, guidance))


@cache
def teacher_distance(guidance: float | None, plan: str = OF_TEACHER) -> Score:
    """Return the score that is minus the FD to the teacher's samples with this guidance, [PARTS], jackknifed. More
    steps of the network come nearer to the teacher, also on a network for which FD to the data rises with steps."""
    return lambda s, x: -jackknife_distances(_features(s, x), _teacher_features(s, plan, guidance))


@cache
def _teacher_features(s: Setting, plan: str, guidance: float | None) -> Gaussian:
    teacher = replace(s, seeds=TEACHER_SEEDS if plan == OF_TEACHER else TEACHER_SEEDS[:256])
    return fit_gaussian(_features(teacher, teacher_samples(teacher, plan, guidance)))


def pairs_distance(s: Setting, x: Floats) -> Floats:
    """Return minus the FD to samples of the shipped network as `zoo.pairs` draws them, [PARTS], jackknifed."""
    return -jackknife_distances(_features(s, x), _features_of_pairs(s))


@cache
def _features_of_pairs(s: Setting) -> Gaussian:
    from zoo.pairs import GUIDANCE, PLAN  # which imports torch

    shipped = replace(s, seeds=TEACHER_SEEDS, sampler=sampler_of(ready.fashion_mnist(), "int8"))
    return fit_gaussian(_features(shipped, shipped.sample(PLAN, guidance=GUIDANCE)))


def _features(s: Setting, x: Floats) -> Floats:
    assert s.judge is not None
    return np.concatenate([s.judge.extract(x[at : at + 256]) for at in range(0, len(x), 256)])


def si_sdr(s: Setting, x: Floats) -> Floats:
    """Return the scale-invariant signal-to-distortion ratio in dB, [B] (Le Roux et al. 2019, arXiv 1811.02508)."""
    sound = s.sampler.bundle.manifest.spectrogram
    assert sound is not None
    length = spectrogram.sample_count(sound, x.shape[-1])
    made, clean = (spectrogram.decode(sound, each, length).astype(np.float64) for each in (x, s.clean))
    scale = (made * clean).sum(1, keepdims=True) / (clean**2).sum(1, keepdims=True)
    target = scale * clean
    return np.asarray(10 * np.log10((target**2).sum(1) / ((made - target) ** 2).sum(1)))


def psnr_of_return(s: Setting, x: Floats) -> Floats:
    """Return the PSNR in dB to the image that was inverted, at most 99, [B]."""
    return np.minimum(psnr(x, s.picture), 99.0)


def other_colour(s: Setting, x: Floats) -> Floats:
    """Return [B], 1 where a sample shows the item that was asked for, but not the colour."""
    is_item = s.logits(s.seen(x)).argmax(1) == s.labels
    return np.asarray(is_item & ~has_its_colour(s.seeds, x), np.float64)
