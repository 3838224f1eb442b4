"""Samples that claims and directions share: each way runs once for the seeds of a model."""

from dataclasses import replace
from functools import cache

from fewstep.measure.rollouts.metrics import Floats
from lab.claims.claim import Way
from lab.claims.settings import Setting

MADE: dict[tuple[str, range, Way], Floats] = {}


@cache
def take_seeds(setting: Setting, count: int) -> Setting:
    """Return the setting with this number of seeds, from its first one on."""
    return replace(setting, seeds=range(setting.seeds.start, setting.seeds.start + count))


def sample_once(s: Setting, way: Way) -> Floats:
    """Return the samples of a way for a model's seeds."""
    key = s.source, s.seeds, way
    if key not in MADE:
        MADE[key] = way(s)
    return MADE[key]


def sample_first(setting: Setting, way: Way, count: int, others: int) -> Floats:
    """Return the samples of the first `count` seeds, and keep those of the first `others` for claims. The sample of a
    seed must not depend on the other seeds."""
    made = sample_once(take_seeds(setting, max(count, others)), way)
    MADE.setdefault((setting.source, take_seeds(setting, others).seeds, way), made[:others])
    return made[:count]
