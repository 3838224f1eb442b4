"""Checkpoints of a calibration's counts in the user's cache, so that an interrupted calibration resumes.

Histograms merge exactly, so a resumed calibration gives the same bytes as an uninterrupted one. The file is named by a
hash of everything that determines the counts. It carries a hash of its content, and a damaged file is ignored. The file
is removed when the bundle is written.
"""

import logging
from dataclasses import dataclass, field, replace
from hashlib import sha256
from time import monotonic, time

import msgspec
import numpy as np

from fewstep.calibration.ranges.histogram import Histogram
from fewstep.calibration.ranges.observe import Counts
from fewstep.calibration.task import Task
from fewstep.measure.rollouts.conditions_file import digest_records
from fewstep.measure.workers.code_digest import arithmetic_facts, code_digest
from fewstep.plans.file import encode
from fewstep.runtime.machine import cache
from fewstep.runtime.machine.cpu import default_threads

LOG = logging.getLogger("fewstep")
SCHEMA = 6
SECONDS = 20.0  # seconds between two writes
ABANDONED = 30 * 86400.0  # seconds after which a checkpoint is no longer resumed


class StoredHistogram(msgspec.Struct, frozen=True):
    """One histogram, with its arrays as bytes; counts have the type `dtype`."""

    tensor: str
    group: int
    exponent: int
    first: int
    dtype: str
    counts: bytes
    lows: bytes
    highs: bytes


class StoredCounts(msgspec.Struct, frozen=True):
    """The activation counts of the first `done` trajectories. `tensors` lists all observed tensors, including those
    without values."""

    done: int
    tensors: tuple[str, ...]
    histograms: tuple[StoredHistogram, ...]


@dataclass
class Checkpoint:
    """The activation counts of an unfinished calibration, stored so that it can be resumed. Created by
    `open_checkpoint`."""

    name: str
    written: float = field(default_factory=monotonic)

    def load(self, empty: Counts) -> tuple[Counts, int]:
        """Return the stored counts and the number of trajectories that they include; `empty` and 0 if nothing is
        stored."""
        content = cache.read_intact("calibration", self.name)
        if content is None:
            return empty, 0
        stored = msgspec.msgpack.decode(content, type=StoredCounts)
        if lacking := [name for name in empty.tensors if name not in stored.tensors]:  # one may have had no values
            what = "the checkpoint of an earlier calibration lacks tensor %r: calibration starts from the beginning"
            LOG.warning(what, lacking[0])
            return empty, 0
        LOG.warning("resuming an unfinished calibration after %d trajectories", stored.done)
        return replace(empty, histograms=dict(map(_decode_histogram, stored.histograms))), stored.done

    def save(self, counts: Counts, done: int, is_last: bool = False) -> None:
        """Save the counts, unless they were saved less than SECONDS ago. The last counts are always saved, because long
        work may follow."""
        if is_last or monotonic() - self.written >= SECONDS:
            cache.store_intact("calibration", self.name, _encode(counts, done))
            self.written = monotonic()

    def drop(self) -> None:
        """Remove the checkpoint. Call this after the bundle is written."""
        try:
            for path in (cache.folder() / "calibration").glob(f"*{self.name}*"):  # drafts of killed writes, too
                path.unlink(missing_ok=True)
        except OSError as error:  # a cache that cannot be written never held a checkpoint
            LOG.debug("%s", error)


def open_checkpoint(task: Task, threads: int) -> Checkpoint:
    """Return the checkpoint of a task, and remove abandoned checkpoints.

    threads: the number of threads of an evaluation, which affects the rounding of its sums; 0 means
        `default_threads`.
    """
    _remove_abandoned()
    sha = sha256(encode(task.plan))
    sha.update(repr((SCHEMA, task.graph_sha256, task.seeds, task.edges, task.sizes, task.network)).encode())
    sha.update(code_digest())
    sha.update(repr(task.tensors).encode())
    sha.update(msgspec.json.encode((_input_facts(task), arithmetic_facts(), threads or default_threads())))
    sha.update(digest_records(task.conditions or {}).encode())
    return Checkpoint(sha.hexdigest()[:32])


def _remove_abandoned() -> None:
    """Remove files not written to for `ABANDONED` seconds, including drafts of killed writes."""
    try:
        for path in (cache.folder() / "calibration").glob("*"):
            if time() - path.stat().st_mtime > ABANDONED:
                path.unlink(missing_ok=True)
    except OSError as error:  # another process may have removed it
        LOG.debug("%s", error)


def _input_facts(task: Task) -> tuple[object, ...]:
    """Return everything except the plan that determines the body's inputs along a trajectory: the shape of x, sizes,
    conditions, the conditioner and the prologue with their hashes, and the bodies of other networks."""
    manifest = task.sampler.bundle.manifest
    graphs = [graph for graph in (manifest.conditioner, manifest.prologue) if graph is not None]
    others = []  # the other networks, whose steps the trajectories also run; names of graphs follow from their content
    if task.all_networks is not None:
        full = task.all_networks.bundle.manifest
        others = [
            full.bodies["float32"],
            *((network.until, network.bodies["float32"]) for network in full.networks.values()),
        ]
    return manifest.x_shape, manifest.sizes, manifest.conditions, graphs, manifest.digests(graphs), *others


def _encode(counts: Counts, done: int) -> bytes:
    stored = (
        StoredHistogram(
            *(tensor, group, histogram.exponent, histogram.first, str(histogram.stored.dtype)),
            *(array.tobytes() for array in (histogram.stored, histogram.lows, histogram.highs)),
        )
        for (tensor, group), histogram in counts.histograms.items()
    )
    return msgspec.msgpack.encode(StoredCounts(done, counts.tensors, tuple(stored)))


def _decode_histogram(stored: StoredHistogram) -> tuple[tuple[str, int], Histogram]:
    counts = np.frombuffer(stored.counts, stored.dtype)
    lows, highs = (np.frombuffer(array, np.float32) for array in (stored.lows, stored.highs))
    return (stored.tensor, stored.group), Histogram(stored.exponent, stored.first, counts, lows, highs)
