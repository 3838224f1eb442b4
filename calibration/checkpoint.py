"""What a calibration has counted so far, in the user's cache until its bundle is written: an interrupted one goes on.

Histograms merge exactly, so a calibration that was interrupted gives the same bytes as one that was not. It is kept
under the hash of everything that the counts follow from; a file that cannot be read is no file.
"""

import io
import logging
import zipfile
from dataclasses import dataclass, field, replace
from hashlib import sha256
from time import monotonic

import msgspec
import numpy as np

from fewstep.calibration.ranges.histogram import BINS, Histogram
from fewstep.calibration.ranges.observe import Counts
from fewstep.calibration.task import Task
from fewstep.runtime import cache
from fewstep.runtime.plan_file import encode

LOG = logging.getLogger("fewstep")
SCHEMA = 1
SECONDS = 20.0  # between two writes: a short calibration makes none


class Entry(msgspec.Struct, frozen=True):
    """One histogram; its counts are the array of the same number."""

    tensor: str
    group: int
    exponent: int
    first: int
    low: float
    high: float


class Header(msgspec.Struct, frozen=True):
    done: int  # trajectories
    entries: tuple[Entry, ...]


@dataclass
class Checkpoint:
    """Where the counts of one task are kept. Made by `checkpoint_of`."""

    name: str
    written: float = field(default_factory=monotonic)

    def load(self, empty: Counts) -> tuple[Counts, int]:
        """What was counted before, and in how many trajectories: nothing, in none, if there is no file."""
        content = cache.read("calibration", self.name)
        if content is None:
            return empty, 0
        try:
            histograms, done = _decode(content)
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, msgspec.MsgspecError) as error:
            LOG.warning("what an earlier calibration left cannot be read (%s): it starts anew", error)
            return empty, 0
        LOG.warning("going on after %d trajectories of a calibration that was interrupted", done)
        return replace(empty, histograms=histograms), done

    def save(self, counts: Counts, done: int) -> None:
        """Keep the counts, unless that was done a moment ago."""
        if monotonic() - self.written >= SECONDS:
            cache.store("calibration", self.name, _encode(counts, done))
            self.written = monotonic()

    def drop(self) -> None:
        """The bundle is written: nothing to go on with."""
        try:
            cache.path("calibration", self.name).unlink(missing_ok=True)
        except OSError as error:  # a cache that cannot be written never held anything
            LOG.debug("%s", error)


def checkpoint_of(task: Task, graph_sha256: str) -> Checkpoint:
    """Of the float denoiser with this hash along the task."""
    known = sha256(encode(task.plan))
    known.update(repr((SCHEMA, graph_sha256, task.seeds, task.edges, task.sizes)).encode())
    for name, rows in sorted((task.conditions or {}).items()):
        known.update(f"{name} {rows.dtype} {rows.shape}".encode())
        known.update(np.ascontiguousarray(rows).tobytes())
    return Checkpoint(known.hexdigest()[:32])


def _encode(counts: Counts, done: int) -> bytes:
    held = counts.histograms
    entries = tuple(Entry(name, group, h.exponent, h.first, h.low, h.high) for (name, group), h in held.items())
    header = np.frombuffer(msgspec.json.encode(Header(done, entries)), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, header, *(histogram.stored for histogram in held.values()))
    return buffer.getvalue()


def _decode(content: bytes) -> tuple[dict[tuple[str, int], Histogram], int]:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        header = msgspec.json.decode(arrays["arr_0"].tobytes(), type=Header)
        histograms = {}
        for number, entry in enumerate(header.entries, 1):
            stored = arrays[f"arr_{number}"]
            if stored.dtype.kind != "u" or stored.ndim != 1 or not 0 <= entry.first <= 2 * BINS - len(stored):
                raise ValueError(f"the counts of {entry.tensor!r} are none")
            histogram = Histogram(entry.exponent, entry.first, stored, entry.low, entry.high)
            histograms[entry.tensor, entry.group] = histogram
    return histograms, header.done
