"""The best numbers of a fit that is not finished, in the user's cache folder."""

import logging
from dataclasses import dataclass, replace
from hashlib import sha256

import msgspec
import numpy as np

from fewstep.fitting.recurrence import Recurrence
from fewstep.runtime.machine import cache

LOG = logging.getLogger("fewstep")


class BestNumbers(msgspec.Struct, frozen=True):
    """Times, leans and rows of a recurrence, after so many steps."""

    done: int
    times: tuple[float, ...]
    lean: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class FitCheckpoint:
    """The best numbers of one fit, under a name that follows from everything that the fit follows from."""

    name: str

    @property
    def is_saved(self) -> bool:
        """True where an earlier fit left numbers."""
        return cache.read_intact("fitting", self.name) is not None

    def save(self, numbers: Recurrence, done: int) -> None:
        times, lean = tuple(numbers.times.tolist()), tuple(numbers.lean.tolist())
        best = BestNumbers(done, times, lean, tuple(map(tuple, numbers.rows.tolist())))
        cache.store_intact("fitting", self.name, msgspec.json.encode(best))

    def load(self, origin: Recurrence) -> tuple[Recurrence, int]:
        """The best numbers so far, and the steps that led there: the origin, and 0, where nothing was saved."""
        content = cache.read_intact("fitting", self.name)
        if content is None:
            return origin, 0
        best = msgspec.json.decode(content, type=BestNumbers)
        LOG.warning("going on after %d steps of a fit that did not finish", best.done)
        times, lean, rows = (np.array(each, np.float64) for each in (best.times, best.lean, best.rows))
        return replace(origin, times=times, lean=lean, rows=rows), best.done

    def drop(self) -> None:
        """Nothing is left to go on with: the fit is finished."""
        try:
            cache.path("fitting", self.name).unlink(missing_ok=True)
        except OSError as error:
            LOG.debug("%s", error)


def open_fit_checkpoint(*facts: bytes) -> FitCheckpoint:
    """The checkpoint of the fit that these facts determine."""
    digest = sha256()
    for fact in facts:
        digest.update(sha256(fact).digest())
    return FitCheckpoint(f"{digest.hexdigest()[:32]}.json")
