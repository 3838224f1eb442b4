"""Mixtures of Gaussians along each axis: exact denoisers, exact means and masses of what is tilted or sharpened."""

from dataclasses import dataclass

import numpy as np

from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec


@dataclass(frozen=True)
class Mixture:
    """Independent along each axis."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]

    def x0(self, x: np.ndarray, time: Time) -> np.ndarray:
        """E[x0 | x]."""
        variance = time.alpha**2 * np.square(self.stds) + time.sigma**2
        away = x[..., None] - time.alpha * np.array(self.means)
        likely = np.log(self.weights) - away**2 / (2 * variance) - 0.5 * np.log(variance)
        likely = np.exp(likely - likely.max(-1, keepdims=True))
        each = np.array(self.means) + time.alpha * np.square(self.stds) / variance * away
        return (likely * each).sum(-1) / likely.sum(-1)

    def eps(self, x: np.ndarray, time: Time) -> np.ndarray:
        return (x - time.alpha * self.x0(x, time)) / time.sigma

    def density(self, x: np.ndarray) -> np.ndarray:
        away = (x[:, None] - np.array(self.means)) / np.array(self.stds)
        return (np.array(self.weights) * np.exp(-0.5 * away**2) / np.array(self.stds)).sum(1)

    def tilted_mean(self, strength: float) -> float:
        """E[x e^(strength x)] / E[e^(strength x)]."""
        mean, variance = np.array(self.means), np.square(self.stds)
        share = np.array(self.weights) * np.exp(strength * mean + strength**2 * variance / 2)
        return float(((mean + strength * variance) * share).sum() / share.sum())


FACTS = DenoiserFacts(ScheduleSpec("cosine"), "sample")
GUIDED = DenoiserFacts(ScheduleSpec("cosine"), "epsilon", guided=True)
SCHEDULE = NoiseSchedule(FACTS.schedule)
