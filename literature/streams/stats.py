"""Counts and latencies of a stream, in constant memory."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

LATENCIES = 1024  # frames that the percentiles look back on


@dataclass(frozen=True)
class Stats:
    """Counts since a stream began. Percentiles are over the last 1024 frames that came out.

    frames: frames that were pushed.
    out: frames that came out. skipped: the part of `out` that the filter skipped.
    dropped: frames that were never sampled: their source left them out, or `set(now=True)` or an error came first.
    calls: calls of the network.
    fps: frames out per second, from the first push to the last frame out.
    """

    frames: int
    out: int
    skipped: int
    dropped: int
    in_flight: int
    calls: int
    fps: float
    latency_p50_s: float
    latency_p99_s: float


@dataclass
class Counter:
    """The counts of a stream while it runs."""

    frames: int = 0
    out: int = 0
    skipped: int = 0
    dropped: int = 0
    calls: int = 0
    began: float = 0.0
    ended: float = 0.0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES))

    def count_push(self, now: float) -> None:
        self.began = self.began if self.frames else now
        self.frames += 1

    def count_output(self, now: float, latency: float, fresh: bool) -> None:
        self.out, self.skipped, self.ended = self.out + 1, self.skipped + (not fresh), now
        self.latencies.append(latency)

    def stats(self, in_flight: int) -> Stats:
        p50, p99 = np.percentile(self.latencies, (50, 99)) if self.latencies else (0.0, 0.0)
        seconds = self.ended - self.began
        fps = self.out / seconds if self.out and seconds > 0 else 0.0
        counts = self.frames, self.out, self.skipped, self.dropped, in_flight, self.calls
        return Stats(*counts, fps, float(p50), float(p99))
