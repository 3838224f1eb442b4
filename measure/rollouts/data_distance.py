"""The distance of samples from the data by its mean and standard deviation, which `export --check` stores; and whether
the teacher's many steps are further from the data than the judged plan's few, as for a distilled denoiser.

The distance is the squared Wasserstein distance of two normal distributions, (difference of the means)^2 + (difference
of the standard deviations)^2, relative to the variance of the data.
"""

import numpy as np

from fewstep.measure.rollouts.metrics import Floats
from fewstep.plans.spec import Strict

FEWEST = 8  # samples whose mean and standard deviation are compared with those of the data
LEAST = 0.02  # variances of the data: a shift of 0.14 standard deviations
ERRORS = 3.0  # standard errors by which a difference is larger than chance


class TeacherDistance(Strict, frozen=True):
    """The distances from the data of the judged plan's float32 samples and of the teacher's, for the same seeds.

    error: the standard error of their difference over seeds, by the jackknife.
    """

    judged: float
    teacher: float
    error: float
    seeds: int

    @property
    def is_further(self) -> bool:
        """Whether the teacher's samples are further from the data, by more than chance explains."""
        return self.teacher - self.judged > max(LEAST, ERRORS * self.error)

    def describe(self, plan: str, teacher: str) -> str:
        """Return the finding as a sentence without its end."""
        return (
            f"the many steps of {teacher} are further from the data ({self.teacher:.2g} of its variance) than the few "
            f"of {plan} ({self.judged:.2g}, {self.seeds} seeds), as for a distilled denoiser"
        )


def distance_from_data(samples: Floats, moments: tuple[float, float]) -> float:
    """Return the distance of samples from data of this mean and standard deviation."""
    values = samples.astype(np.float64)
    mean, deviation = moments
    if deviation == 0:
        return 0.0
    return float(((values.mean() - mean) ** 2 + (values.std() - deviation) ** 2) / deviation**2)


def compare_with_teacher(judged: Floats, teacher: Floats, moments: tuple[float, float]) -> TeacherDistance | None:
    """Return the distances of samples [seeds, *x_shape] of both plans. None for fewer than `FEWEST` seeds."""
    count = len(teacher)
    if count < FEWEST:
        return None

    def distances(of: Floats) -> Floats:
        """Return the distance of the samples without one, for each of them."""
        return np.array([distance_from_data(np.delete(of, seed, axis=0), moments) for seed in range(count)])

    few = judged[:count]
    changes = distances(teacher) - distances(few)
    error = float(np.sqrt((count - 1) / count * np.square(changes - changes.mean()).sum()))
    return TeacherDistance(distance_from_data(few, moments), distance_from_data(teacher, moments), error, count)
