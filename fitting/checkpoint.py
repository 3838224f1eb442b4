"""The best numbers of an unfinished fit, in the user's cache folder."""

import logging
from dataclasses import dataclass, replace
from hashlib import sha256

import msgspec
import numpy as np

from fewstep.fitting.recurrence import Recurrence
from fewstep.runtime.machine import cache

LOG = logging.getLogger("fewstep")


class BestNumbers(msgspec.Struct, frozen=True):
    """The best coefficients and times found in the first `done` steps of a search. The fields are those of
    `Recurrence`."""

    done: int
    times: tuple[float, ...]
    lean: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class FitCheckpoint:
    """The best numbers of one fit. Its name is a digest of everything that determines the fit."""

    name: str

    @property
    def is_saved(self) -> bool:
        """Whether an earlier, unfinished fit saved its coefficients and times."""
        return cache.read_intact("fitting", self.name) is not None

    def save(self, numbers: Recurrence, done: int) -> None:
        times, lean = tuple(numbers.times.tolist()), tuple(numbers.lean.tolist())
        best = BestNumbers(done, times, lean, tuple(map(tuple, numbers.rows.tolist())))
        cache.store_intact("fitting", self.name, msgspec.json.encode(best))

    def load(self, origin: Recurrence) -> tuple[Recurrence, int]:
        """Return the stored coefficients and times, and the number of search steps that led to them; (origin, 0) if
        nothing is stored."""
        content = cache.read_intact("fitting", self.name)
        if content is None:
            return origin, 0
        best = msgspec.json.decode(content, type=BestNumbers)
        LOG.warning("resuming an unfinished fit after %d steps", best.done)
        times, lean, rows = (np.array(array, np.float64) for array in (best.times, best.lean, best.rows))
        return replace(origin, times=times, lean=lean, rows=rows), best.done

    def drop(self) -> None:
        """Delete the checkpoint of a finished fit."""
        try:
            cache.path("fitting", self.name).unlink(missing_ok=True)
        except OSError as error:
            LOG.debug("%s", error)


def open_fit_checkpoint(*facts: bytes) -> FitCheckpoint:
    """Return the checkpoint of a fit. The fit is identified by `facts`, the bytes of each of its inputs."""
    digest = sha256()
    for fact in facts:
        digest.update(sha256(fact).digest())
    return FitCheckpoint(f"{digest.hexdigest()[:32]}.json")
