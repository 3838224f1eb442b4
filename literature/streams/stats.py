"""Counts and latencies of a stream, in constant memory."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

LATENCIES = 1024  # number of recent frames in the percentiles


@dataclass(frozen=True)
class Stats:
    """Counts since a stream began. Percentiles are over the last 1024 frames that were returned.

    frames: frames that were pushed.
    out: frames that were returned. skipped: returned frames that the filter skipped.
    dropped: frames that were never sampled, because their source left them out, or because of `set(now=True)` or an
        error.
    calls: calls of the network.
    fps: frames returned per second, from the first push to the last returned frame.
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
    """Counts frames and network calls while a stream runs."""

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
