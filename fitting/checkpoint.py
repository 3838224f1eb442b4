"""What a fit has found so far, in the user's cache folder: one that was interrupted goes on from its best numbers."""

import logging
from dataclasses import dataclass, replace
from hashlib import sha256

import msgspec
import numpy as np

from fewstep.fitting.recurrence import Recurrence
from fewstep.machine import cache

LOG = logging.getLogger("fewstep")
SCHEMA = 1


class Kept(msgspec.Struct, frozen=True):
    """Told times, leans and rows of a recurrence, after so many iterations."""

    done: int
    told: tuple[float, ...]
    lean: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Checkpoint:
    """The best numbers of one fit, under a name that follows from everything that the fit follows from."""

    name: str

    def save(self, numbers: Recurrence, done: int) -> None:
        kept = Kept(
            done, tuple(numbers.told.tolist()), tuple(numbers.lean.tolist()), tuple(map(tuple, numbers.rows.tolist()))
        )
        cache.store("fitting", self.name, msgspec.json.encode(kept))

    def load(self, origin: Recurrence) -> tuple[Recurrence, int]:
        """The best numbers so far, and the iterations behind them: the origin, and 0, where nothing was kept."""
        content = cache.read("fitting", self.name)
        if content is None:
            return origin, 0
        try:
            kept = msgspec.json.decode(content, type=Kept)
            rows = np.array(kept.rows, np.float64)
            if rows.shape != origin.rows.shape or len(kept.told) != origin.steps or len(kept.lean) != origin.steps:
                raise ValueError("it is of another plan")
        except (msgspec.DecodeError, ValueError) as error:
            LOG.warning("what an earlier fit left cannot be read (%s): it starts anew", error)
            return origin, 0
        LOG.warning("going on after %d iterations of a fit that did not finish", kept.done)
        return replace(origin, told=np.array(kept.told), lean=np.array(kept.lean), rows=rows), kept.done

    def drop(self) -> None:
        """The fit is finished: nothing to go on with."""
        try:
            cache.path("fitting", self.name).unlink(missing_ok=True)
        except OSError as error:
            LOG.debug("%s", error)


def checkpoint_of(*facts: bytes) -> Checkpoint:
    """A checkpoint of the fit that these facts determine."""
    known = sha256(repr(SCHEMA).encode())
    for fact in facts:
        known.update(sha256(fact).digest())
    return Checkpoint(f"{known.hexdigest()[:32]}.json")
